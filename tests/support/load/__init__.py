"""Load: clients of a web service in processes of their own, for tests and for ``bench``, and their observations as
data.

A *plan* sets path, rate and kind of connection. Clients keep to the due times of the plan, however long answers take:
the time of a request counts from its due time, so a service that hangs gets no fewer requests. Nothing is retried:
every error is a failed request with time and error. A plan ends by itself, and its records are bounded.

``plan``: requests to send. ``http``: protocols (HTTP/1.1, TLS, WebSocket). ``clients``: process that sends requests.
``result``: outcome. ``local``: clients on this machine. The test bed starts the same clients on its hosts
(``tests.support.cluster.load``). Nothing here knows devopsellence.
"""
