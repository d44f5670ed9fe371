"""The gateway: a gRPC server in front of etcd that serves agents and operators a part of etcd's v3 API.

Pure: ``rules`` decides on calls, ``watch_buffer`` keeps recent changes. With IO: ``identities`` follows the registered
nodes and the operators' access, ``upstream`` calls etcd as the controller, ``kv``, ``lease_service`` and ``watch`` are
the services, ``keepalives`` passes those of all callers on, ``watch_hub`` fans one watch out to many, ``admission``
names the caller of each call, bounds and answers calls, ``audit`` records them, ``audit_service`` takes what nodes
record and shows all of it, ``server`` listens.

May not go in here: decisions of the controller, which reads and writes etcd directly. Covered by
tests/integration/gateway as well.
"""
