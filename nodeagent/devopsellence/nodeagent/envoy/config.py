"""Envoy's complete configuration as bytes: the static bootstrap, and the dynamic files rendered from a routing. Pure.

Only this module knows all renderers (``listeners``, ``routes``, ``clusters``, ``tls``). Dynamic files: ``lds.json``
(listeners, with the hosts' certificates), ``cds.json`` (clusters), ``rds/`` (routes, a file per listener), ``eds/``
(endpoints, a file per backend), ``sds/`` (two secrets for TLS between routers). A file refers only to files
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
_MANAGER: Final = "envoy.config.overload.v3"
_HEAP: Final = "envoy.resource_monitors.fixed_heap"
#: Memory that the shares below refer to. A silent connection takes 12 KiB, an idle one 14 KiB with TLS and 16 KiB
#: after a request, a quiet Envoy 7 MiB and 0.1 MiB for each host. So pressure begins at 8,000 connections, and is full
#: with nearly 20,000 idle ones; silent ones alone, which end soon, leave idle connections a quarter of their hour.
HEAP_BYTES: Final = 512 << 20
_PRESSURE_BEGINS: Final = 0.25
_PRESSURE_IS_FULL: Final = 0.5
#: Idle time that a connection has even then.
_IDLE_UNDER_PRESSURE: Final = "30s"
#: Envoy's default limit of 100 instructions refuses a regular expression with the names of three nodes (routes of
#: peers): a name takes about 32.
_RUNTIME: Final[Message] = {"re2.max_program_size.error_level": 100_000}


def bootstrap(folder: str, *, node: str, heap_bytes: int = HEAP_BYTES) -> bytes:
    """Return the static configuration. ``folder``: path of the files inside the container."""
    message: Message = {
        "node": {"id": node, "cluster": "devopsellence"},
        "admin": {"address": {"pipe": {"path": f"{folder}/{ADMIN_SOCKET}", "mode": _ONLY_OWNER}}},
        "dynamic_resources": {"lds_config": source(folder, LISTENERS), "cds_config": source(folder, CLUSTERS)},
        "overload_manager": _overload_manager(heap_bytes),
        "layered_runtime": {"layers": [{"name": "devopsellence", "static_layer": _RUNTIME}]},
        "deferred_stat_options": {"enable_deferred_creation_stats": True},
    }
    return to_json(message)


def _overload_manager(heap_bytes: int) -> Message:
    """Return what Envoy does when it has many connections: the longest idle are closed, so that new ones get in.

    Envoy cannot act upon their number, only refuse further ones, so memory stands for it. There is no limit by client
    address, which would concern everybody behind one proxy.
    """
    monitors = "envoy.extensions.resource_monitors"
    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [
            extension(
                "envoy.resource_monitors.global_downstream_max_connections",
                f"{monitors}.downstream_connections.v3.DownstreamConnectionsConfig",
                {"max_active_downstream_connections": _DOWNSTREAM_CONNECTIONS},
            ),
            extension(_HEAP, f"{monitors}.fixed_heap.v3.FixedHeapConfig", {"max_heap_size_bytes": heap_bytes}),
        ],
        "actions": [
            {
                **extension(
                    "envoy.overload_actions.reduce_timeouts",
                    f"{_MANAGER}.ScaleTimersOverloadActionConfig",
                    {
                        "timer_scale_factors": [
                            {"timer": "HTTP_DOWNSTREAM_CONNECTION_IDLE", "min_timeout": _IDLE_UNDER_PRESSURE}
                        ]
                    },
                ),
                "triggers": [
                    {
                        "name": _HEAP,
                        "scaled": {
                            "scaling_threshold": _PRESSURE_BEGINS,
                            "saturation_threshold": _PRESSURE_IS_FULL,
                        },
                    }
                ],
            }
        ],
    }


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
