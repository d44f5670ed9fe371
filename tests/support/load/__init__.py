"""Load: clients of a web service in processes of their own, for tests and for ``bench``, and what they saw as data.

A *plan* says what is asked, how often and over what kind of connection. Clients keep to its moments, whatever the
answers take: a request's time counts from when it was due, so that a service which hangs is not asked more seldom and
measured less for it. Nothing is retried: whatever goes wrong is a failed request, with its moment and its error. A plan
ends by itself, and what is kept of it is bounded.

``plan`` what is asked, ``http`` the protocols (HTTP/1.1, TLS, WebSocket), ``clients`` the process that asks, ``result``
what came of it, ``local`` clients on this machine. The several-host bed starts the same clients on its hosts
(``tests.support.cluster.load``).
"""
