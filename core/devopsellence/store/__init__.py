"""Everything between the programs and etcd.

``keys`` builds and parses every key, ``records`` turns messages into values and back, ``settings`` says where etcd
is. ``etcd`` (with ``connection`` and ``wire`` under it) is the only module that imports the etcd client, and raises
only the errors of ``errors``. ``lease`` keeps leases alive on one stream, ``informer`` keeps a cache of a prefix that
is true or says that it is not, ``election`` decides who leads and fences what the leader writes, ``access`` gives
each machine its rights, ``journal`` lets events age out. Nothing else here knows what the messages mean.
"""

import os

# gRPC reads these when it is first imported. It would write on stderr what we report ourselves, and warn of forks,
# which only ever exec here. Who needs its own account sets GRPC_VERBOSITY.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
