"""Envoy's complete configuration as bytes: the static bootstrap, and the dynamic files rendered from a routing. Pure.

Only this module knows all renderers (``listeners``, ``routes``, ``clusters``, ``tls``). Dynamic files: ``lds.json``
(listeners, with the hosts' certificates), ``cds.json`` (clusters), ``rds/`` (routes, a file per listener), ``eds/``
(endpoints, a file per backend), ``sds/`` (two secrets with the node's own certificate). A file refers only to files
earlier in :data:`WRITE_ORDER`.

Envoy's command line is in ``container``. ``--disable-hot-restart``: several Envoys share a machine (in tests, and while
a new Envoy replaces an old one), so shared memory and base ids are off. ``--drain-time-s`` is a day: after a renewal,
connections that use the former certificate stay open for this time; longer connections, such as WebSockets, are cut
then. How long a replaced Envoy goes on is up to ``supervisor``, through the admin API.
"""

from __future__ import annotations

from typing import Final

from devopsellence.nodeagent.envoy import clusters, routes, tls
from devopsellence.nodeagent.envoy.clusters import cluster_name
from devopsellence.nodeagent.envoy.listeners import LISTENER, listeners
from devopsellence.nodeagent.envoy.model import ListenerConfig, NodeRouting
from devopsellence.nodeagent.envoy.resources import CLUSTERS, LISTENERS, Message, extension, response, source, to_json

__all__ = ["ADMIN_SOCKET", "WRITE_ORDER", "bootstrap", "cluster_name", "config_files"]

#: Beginnings of paths, in write order; stale files are removed in reverse. Envoy rejects a file that refers to a
#: missing file.
WRITE_ORDER: Final = ("sds/", "eds/", CLUSTERS, "rds/", LISTENERS)
ADMIN_SOCKET: Final = "run/admin.sock"
_ONLY_OWNER: Final = 0o600
_DOWNSTREAM_CONNECTIONS: Final = 20_000


def bootstrap(folder: str, *, node: str) -> bytes:
    """Return the static configuration. ``folder``: path of the files inside the container."""
    message: Message = {
        "node": {"id": node, "cluster": "devopsellence"},
        "admin": {"address": {"pipe": {"path": f"{folder}/{ADMIN_SOCKET}", "mode": _ONLY_OWNER}}},
        "dynamic_resources": {"lds_config": source(folder, LISTENERS), "cds_config": source(folder, CLUSTERS)},
        "overload_manager": {
            "resource_monitors": [
                extension(
                    "envoy.resource_monitors.global_downstream_max_connections",
                    "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                    {"max_active_downstream_connections": _DOWNSTREAM_CONNECTIONS},
                )
            ]
        },
        "deferred_stat_options": {"enable_deferred_creation_stats": True},
    }
    return to_json(message)


def config_files(routing: NodeRouting, listen: ListenerConfig, folder: str) -> dict[str, bytes]:
    """Return all dynamic files by path relative to ``folder``, in :data:`WRITE_ORDER`; deterministic.

    ``folder``: path of the files inside the container. ``lds.json`` holds private keys.
    """
    files = tls.peer_files(listen.peer_tls) if listen.peer_tls is not None else {}
    cluster_messages = []
    for config in routing.configs:
        for backend in sorted(config.backends, key=lambda backend: (backend.service, backend.port)):
            path = clusters.endpoints_path(config.ref, backend.service, backend.port)
            files[path] = clusters.endpoints_file(config, backend, listen)
            cluster_messages.append(clusters.cluster(config.ref, backend, listen, folder))
    files[CLUSTERS] = response(clusters.CLUSTER, cluster_messages)
    listener_messages = listeners(routing, listen, folder)
    for listener in listener_messages:
        name = listener["name"]
        files[routes.routes_path(name)] = routes.routes_file(name, routing, listen)
    files[LISTENERS] = response(LISTENER, listener_messages)
    return files
