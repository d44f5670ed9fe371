"""The gateway: a gRPC server in front of etcd that serves agents and operators a part of etcd's v3 API.

Pure: ``caller`` derives identity and rights from a certificate's common name, ``grants`` matches keys, ``records``
checks values, ``reports`` what a node may report about, ``policy`` decides on requests, ``filters`` removes unreadable
keys from answers, ``leases`` marks the owner in a lease's id, ``limits`` bounds each caller, ``watch_buffer`` keeps
recent changes. With IO: ``identities`` follows the registered nodes and the operators' access, ``upstream`` calls etcd
as the controller, ``kv``, ``lease_service`` and ``watch`` serve the methods, ``keepalives`` passes those of all callers
on, ``watch_hub`` fans one watch out to many, ``admission`` names the caller of each call, bounds and answers calls,
``audit`` logs them, ``server`` listens.

May not go in here: decisions of the controller, which reads and writes etcd directly; a key, method or field that no
grant names is refused. Covered by tests/integration/gateway as well.
"""
