"""Access to etcd for all programs: keys, values, connection, leases, informer, leader election.

``keys`` builds and parses every key, ``codec`` encodes messages as values and decodes values, ``size`` bounds records,
``settings`` reads the address of etcd. Only ``etcd``, with ``client`` below, knows etcd's API. ``lease`` keeps leases
alive on one stream, ``informer`` caches a prefix as ``record.Record`` and reports a stale cache, ``election`` elects
the leader and fences the leader's writes, ``events`` stores events that expire, ``identities`` names the parties of a
cluster.

May not go in here: the meaning of messages (releases, rollouts, assignments); only ``events`` and ``election`` name
messages at all. ``election``, ``etcd`` and ``lease`` are covered by tests/integration/store.
"""

import os

# gRPC reads these variables at import. Without them gRPC would log errors to stderr that are reported anyway, and warn
# of forks, although every fork here is followed by exec. To see gRPC's own log, set GRPC_VERBOSITY.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
