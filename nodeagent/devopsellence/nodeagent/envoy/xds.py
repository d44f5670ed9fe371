"""Envoy's configuration as files, from what is to be routed: pure, and the one door to the modules that know Envoy's
API (``bootstrap``, ``listeners``, ``virtual_hosts``, ``clusters``, ``certificates``).

The folder: ``lds.json``, which holds the hosts' certificates, and ``cds.json``; ``rds/`` with a file for each listener;
``eds/`` with a file for each backend; ``sds/`` with two for the node's own certificate. What a file names is in files
that come before it in :data:`ORDER`.
"""

from __future__ import annotations

from typing import Final

from devopsellence.nodeagent.envoy import clusters, routes, tls
from devopsellence.nodeagent.envoy.clusters import cluster_name
from devopsellence.nodeagent.envoy.config import ADMIN_SOCKET, bootstrap
from devopsellence.nodeagent.envoy.listeners import LISTENER, listeners
from devopsellence.nodeagent.envoy.model import Listen, PeerTls, Routing
from devopsellence.nodeagent.envoy.resources import CLUSTERS, LISTENERS, response

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
