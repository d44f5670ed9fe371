"""Envoy's static configuration: where its files are, its admin socket, and what holds for the whole process.

It is started as ``envoy -c <folder>/bootstrap.json --disable-hot-restart``: several Envoys share a machine (tests, and
two of one node while one replaces the other), so nothing is shared by shared memory and base ids.
``--file-flush-interval-msec`` is how late the access log may be (10 s unless said).

``--drain-time-s`` must be long, a day: for so long the connections to a host go on whose certificate has been replaced,
and what has not ended then, such as a WebSocket, is cut. How long an Envoy goes on that is itself replaced is for
whoever replaces it to say (``POST /healthcheck/fail`` asks clients to go, ``POST /drain_listeners`` listens no more).
"""

from __future__ import annotations

from typing import Final

from devopsellence.nodeagent.envoy import clusters, routes, tls
from devopsellence.nodeagent.envoy.clusters import cluster_name
from devopsellence.nodeagent.envoy.listeners import LISTENER, listeners
from devopsellence.nodeagent.envoy.model import Listen, PeerTls, Routing
from devopsellence.nodeagent.envoy.resources import CLUSTERS, LISTENERS, Message, extension, plain, response, source

ADMIN_SOCKET: Final = "run/admin.sock"
_ONLY_OWNER: Final = 0o600
_DOWNSTREAM_CONNECTIONS: Final = 20_000


def bootstrap(folder: str, *, node: str) -> bytes:
    """The static configuration; ``folder`` is where the files are as Envoy sees them, ``node`` the node's name."""
    found: Message = {
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
    return plain(found)


# MERGED Envoy's configuration as files, from what is to be routed: pure, and the one doo

__all__ = ["ADMIN_SOCKET", "ORDER", "Listen", "PeerTls", "bootstrap", "cluster_name", "files"]

#: How paths begin, in the order in which files are to be written; stale ones are removed the other way round. Envoy
#: refuses a file that names one which is not there.
ORDER: Final = ("sds/", "eds/", CLUSTERS, "rds/", LISTENERS)


def files(routing: Routing, listen: Listen, folder: str) -> dict[str, bytes]:
    """Every file except the bootstrap, by its path in ``folder``, in :data:`ORDER`; the same for the same input.

    ``lds.json`` holds private keys.
    """
    found = tls.peer_files(listen.peer_tls) if listen.peer_tls is not None else {}
    made = []
    for site in routing.sites:
        for backend in sorted(site.backends, key=lambda backend: (backend.service, backend.port)):
            path = clusters.endpoints_path(site.env, backend.service, backend.port)
            found[path] = clusters.endpoints(site, backend, listen)
            made.append(clusters.cluster(site.env, backend, listen, folder))
    found[CLUSTERS] = response(clusters.CLUSTER, made)
    listening = listeners(routing, listen, folder)
    for listener in listening:
        name = listener["name"]
        found[routes.routes_path(name)] = routes.routes(name, routing, listen)
    found[LISTENERS] = response(LISTENER, listening)
    return found
