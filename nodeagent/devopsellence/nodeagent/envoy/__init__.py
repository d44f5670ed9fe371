"""Envoy: configuration files, container, supervisor and admin API.

A :class:`~devopsellence.nodeagent.envoy.model.NodeRouting` is rendered into the files that Envoy watches (``config``,
with ``listeners``, ``routes``, ``clusters`` and ``tls``), within Envoy's limits (``render``), and written to the node's
Envoy folder (``files``). ``image``, ``container`` and ``supervisor`` run Envoy, ``kernel`` helps while one replaces
another; ``admin`` reads Envoy's state, from
which ``endpoints`` derives the containers still in use.

Routing decisions (hosts, certificates, ports, statuses) belong to ``ingress``, which imports this package and is never
imported by it. Nothing here knows of assignments, plans or etcd.

Tests: ``listeners``, ``tls`` and ``resources`` are covered by tests/unit/nodeagent/envoy/test_config.py, ``supervisor``
by tests/integration/router.
"""
