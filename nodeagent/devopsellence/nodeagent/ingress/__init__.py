"""Ingress of one node: routing decisions, ACME keys, and the router that has Envoy carry the decisions out.

``routing`` plans an environment's routing configuration from its assignment, its containers and the controller's
inputs; ``routing_state`` holds what is to be routed and what Envoy's files do not have yet; ``router`` gives the
configurations to Envoy and reads Envoy's state; ``status`` turns that state into statuses; ``ports`` decides where
Envoy may listen; ``unknown_routes`` what must not be written yet. ``node_ingress`` mirrors the controller's inputs
(certificates, challenges, peers, key requests) from etcd, with ``node_ingress_state``, ``dns`` and the cryptography
process (``crypto_worker``, ``crypto_main``). ``facade`` is the reconcile loop's way in, ``interface`` the router as a
protocol.

Not here: Envoy's files and container (``envoy``), the choice of serving containers (``plan``), anything about other
nodes but the addresses of their routers. Never imports ``reconcile``.

Tests: ``router`` and ``facade`` are covered by tests/integration/router and
tests/integration/nodeagent/test_ingress.py, ``node_ingress`` by tests/integration/nodeagent/test_ingress_parts.py.
"""
