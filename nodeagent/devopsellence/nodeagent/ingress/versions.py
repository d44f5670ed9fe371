"""Which statistic of Envoy's tells that it uses a file. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from devopsellence.nodeagent.ingress.certificates import host_secret
from devopsellence.nodeagent.ingress.resources import CLUSTERS, LISTENERS

_LISTENERS: Final = "listener_manager.lds"
_CLUSTERS: Final = "cluster_manager.cds"


@dataclass(frozen=True, slots=True)
class Expected:
    """The version of the file at ``path`` that Envoy is to say it uses."""

    path: str
    version: str


def expected(files: Mapping[str, bytes]) -> dict[str, Expected]:
    """By statistic (as in :attr:`admin.Seen.versions`), for what :func:`xds.files` has made.

    Envoy reads routes only for listeners that are there, and certificates only for those that these name.
    """
    found: dict[str, Expected] = {}
    read = {path: json.loads(content) for path, content in files.items()}
    listeners = {str(each["name"]) for each in read[LISTENERS]["resources"]}
    for path, document in read.items():
        statistic = _statistic(path, document, listeners)
        if statistic:
            found[statistic] = Expected(path, str(document["version_info"]))
    return found


def host_certificate(host: str) -> str:
    """The statistic for the certificate of a host."""
    return f"sds.{host_secret(host)}"


def routes(name: str) -> str:
    """The statistic for the routes of a listener."""
    return f"http.{name}.rds.{name}"


def _statistic(path: str, document: Mapping[str, Any], listeners: set[str]) -> str:
    if path == LISTENERS:
        return _LISTENERS
    if path == CLUSTERS:
        return _CLUSTERS
    (resource,) = document["resources"]
    if path.startswith("rds/"):
        return routes(resource["name"]) if resource["name"] in listeners else ""
    if path.startswith("eds/"):
        return f"cluster.{resource['cluster_name']}"
    # Of the node's own certificate two parts are read by whoever needs them, which need not be anybody.
    return f"sds.{resource['name']}" if resource["name"].startswith(host_secret("")) else ""
