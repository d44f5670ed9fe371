"""Ingress parts: certificates, challenges and peer routers for each node that serves an environment's ingress, and the
claims of its hosts (``claims``).

Parts change at other times than a release, so each part has its own key under ``ingress/<node>/``
(docs/decisions/0018-ingress-parts.md). Pure: planned here, written with the rest of the plan. The rules themselves are
in the assignments; obtaining certificates belongs in ``certificates``.

``peers`` is covered by tests/unit/controller/ingress/test_node_parts.py, ``rules`` by assign/test_node.py.
"""
