"""The program on every node: makes the local Docker Engine run the assignments of this node, and reports the outcome.

Packages, from the top: ``agent`` builds everything, joined by ``event_bus``; ``reconcile`` is the loop; ``ingress``
(with ``envoy``), ``health``, ``images``, ``status``, ``assignments``, ``secrets`` and ``state`` serve the loop;
``plan`` decides, without IO; ``docker`` is the only user of the Docker SDK; ``util`` has threads and memory. ``api``
stands beside ``reconcile`` and serves operators and other nodes. Imports go downwards only.

Anything about other nodes, releases or rollouts belongs in the controller, and direct use of the etcd client in
``devopsellence.store``.

The modules beside the packages are covered by tests/integration/nodeagent.
"""
