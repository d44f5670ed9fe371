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

from devopsellence.nodeagent.envoy.resources import CLUSTERS, LISTENERS, Message, extension, plain, source

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
