"""Which statistic of Envoy's tells that it uses a file. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from devopsellence.nodeagent.envoy.resources import CLUSTERS, LISTENERS

_LISTENERS: Final = "listener_manager.lds"
_CLUSTERS: Final = "cluster_manager.cds"


@dataclass(frozen=True, slots=True)
class Expected:
    """The version of the file at ``path`` that Envoy is to say it uses."""

    path: str
    version: str


def expected(files: Mapping[str, bytes]) -> dict[str, Expected]:
    """By statistic (as in :attr:`admin.Seen.versions`), for what :func:`xds.files` has made.

    Envoy reads routes only for listeners that are there. Hosts' certificates are part of those.
    """
    return _expected(files, {str(each["name"]) for each in json.loads(files[LISTENERS])["resources"]})


def expected_endpoints(files: Mapping[str, bytes]) -> dict[str, Expected]:
    """The same for files of endpoints alone."""
    return _expected(files, set())


def _expected(files: Mapping[str, bytes], named: set[str]) -> dict[str, Expected]:
    found: dict[str, Expected] = {}
    for path, content in files.items():
        document = json.loads(content)
        statistic = _statistic(path, document, named)
        if statistic:
            found[statistic] = Expected(path, str(document["version_info"]))
    return found


def listeners() -> str:
    """The statistic for the listeners, and with them for hosts' certificates."""
    return _LISTENERS


def routes(name: str) -> str:
    """The statistic for the routes of a listener."""
    return f"http.{name}.rds.{name}"


def _statistic(path: str, document: Mapping[str, Any], named: set[str]) -> str:
    if path == LISTENERS:
        return _LISTENERS
    if path == CLUSTERS:
        return _CLUSTERS
    (resource,) = document["resources"]
    if path.startswith("rds/"):
        return routes(resource["name"]) if resource["name"] in named else ""
    if path.startswith("eds/"):
        return f"cluster.{resource['cluster_name']}"
    # The two parts of the node's own certificate are read by whoever needs them, which need not be anybody.
    return ""
