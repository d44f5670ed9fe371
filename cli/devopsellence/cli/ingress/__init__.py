"""Public ingress as an operator handles it: what is routed, the certificates, and whether it works from outside.

``hosts`` is what is known of hosts before anything is written: who has them, which a public authority certifies.
``editing`` writes the configuration's section. ``pem`` checks certificates and keys that somebody brings, ``installed``
stores them. ``look`` reads what there is, ``show`` says it. ``resolving`` (DNS), ``probing`` (ports, TLS, HTTP) and
``judging`` make up ``ingress check``, which ``checking`` runs; ``pointing`` is what a deploy asks of DNS.

What ``status`` shows of it is in ``view.ingress``. dnspython is imported by ``resolving`` alone, and only when it is
used.
"""
