"""What nodes are given for an environment's ingress besides the rules, which are in their assignments.

Certificates, challenges, requests for keys and other nodes' routers change at other times than a release does, so each
has a key of its own under ``ingress/<node>/`` (docs/decisions/0018-ingress-parts.md). Pure: planned here, written with
the rest of the plan. How certificates are obtained is none of this package's business.
"""
