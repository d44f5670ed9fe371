"""Envoy's admin interface, over its unix socket: what Envoy uses of what it was given, and what it is busy with.

Questions are asked one a connection and answers are bounded. What the answers mean is parsed by pure functions; their
shapes are Envoy's ``admin.v3`` messages as JSON (``Clusters``, ``ListenersConfigDump``) and its list of statistics.
"""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from devopsellence.nodeagent.envoy.resources import CLUSTERS, LISTENERS

SOCKET: Final = "admin.sock"
#: Envoy's main thread answers, which is seldom busy for long; a stopped one must not hold anybody up.
ASK_SECONDS: Final = 2.0
#: Two hundred hosts with their routes and clusters are about a tenth of this.
_LARGEST: Final = 16 << 20
_VERSION: Final = "version_text"
_STARTED: Final = "listener_manager.workers_started"
_ACTIVE: Final = ("rq_active", "rq_pending_active")


class AdminSilent(Exception):
    """Envoy does not answer, or not with what was asked for; says how."""


@dataclass(frozen=True, slots=True)
class Host:
    """An endpoint as Envoy sees it: whether it gets new requests, and how many are under way."""

    draining: bool = False
    active: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """What Envoy uses now. ``clusters``: hosts ("10.0.0.2:3000") by cluster. ``versions``: of the files, by the
    statistic that tells it, without its last part (``listener_manager.lds``, ``cluster.<name>``). ``ports``: those that
    it listens on."""

    clusters: Mapping[str, Mapping[str, Host]]
    versions: Mapping[str, str]
    ports: frozenset[int] = frozenset()


class Admin:
    """The interface whose socket is in ``folder``. Lives on the event loop.

    All raise AdminSilent.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def look(self) -> Seen:
        """What Envoy uses at this moment."""
        clusters = parse_clusters(await self._json("GET", "/clusters?format=json"))
        versions = parse_versions(await self._json("GET", "/stats?format=json&type=TextReadouts"))
        return Seen(clusters, versions, parse_ports(await self._json("GET", "/listeners?format=json")))

    async def listens(self) -> bool:
        """Whether its threads have begun to listen; before, its ports refuse whoever comes."""
        return parse_started(await self._json("GET", f"/stats?format=json&filter={_STARTED}"))

    async def requests(self) -> int:
        """How many requests are under way, from all clients."""
        return parse_requests(await self._json("GET", "/stats?format=json&filter=downstream_rq_active"))

    async def refused(self) -> str:
        """What Envoy says of configuration that it did not take; "" if it took all."""
        return parse_refused(await self._json("GET", "/config_dump?resource=dynamic_listeners"))

    async def drain(self) -> None:
        """Have clients go elsewhere: nothing listens any more, and connections are asked to end with the next answer.

        Not "graceful", which goes on listening for the drain time: that is long (``bootstrap``).
        """
        await self._ask("POST", "/drain_listeners")
        await self._ask("POST", "/healthcheck/fail")

    async def _json(self, method: str, path: str) -> Any:
        try:
            return json.loads(await self._ask(method, path))
        except ValueError as error:
            raise AdminSilent(f"Envoy's answer to {path} is not JSON: {error}") from error

    async def _ask(self, method: str, path: str) -> bytes:
        try:
            async with asyncio.timeout(ASK_SECONDS):
                status, body = parse_answer(await self._exchange(f"{method} {path} HTTP/1.1\r\n"))
        except TimeoutError as error:
            raise AdminSilent(f"Envoy's admin interface does not answer: nothing for {ASK_SECONDS:.0f} s") from error
        except (OSError, http.client.HTTPException) as error:
            raise AdminSilent(f"Envoy's admin interface does not answer: {error}") from error
        if status != http.client.OK:
            raise AdminSilent(f"Envoy's admin interface answers {path} with status {status}")
        return body

    async def _exchange(self, line: str) -> bytes:
        # A socket's path may have 108 characters, a state folder any number: so by way of the folder's descriptor.
        folder = os.open(self._folder, os.O_PATH | os.O_DIRECTORY)
        try:
            reader, writer = await asyncio.open_unix_connection(f"/proc/self/fd/{folder}/{SOCKET}")
        finally:
            os.close(folder)
        try:
            writer.write(f"{line}host: admin\r\nconnection: close\r\n\r\n".encode())
            answer = bytearray()
            while chunk := await reader.read(1 << 16):
                answer += chunk
                if len(answer) > _LARGEST:
                    raise AdminSilent("Envoy's admin interface says more than can be taken")
            return bytes(answer)
        finally:
            writer.close()


class _Recorded:
    """A whole answer as the "socket" that the standard library's parser reads from."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._answer)


def parse_answer(answer: bytes) -> tuple[int, bytes]:
    """Status and body of a whole HTTP/1.1 answer. HTTPException if it is none."""
    response = http.client.HTTPResponse(cast("Any", _Recorded(answer)))
    response.begin()
    return response.status, response.read()


def parse_clusters(document: Mapping[str, Any]) -> dict[str, dict[str, Host]]:
    """From ``/clusters?format=json``. Values of 0 and "" are left out there."""
    return {
        cluster["name"]: dict(_host(each) for each in cluster.get("host_statuses", ()))
        for cluster in document.get("cluster_statuses", ())
    }


def parse_versions(document: Mapping[str, Any]) -> dict[str, str]:
    """From ``/stats?format=json&type=TextReadouts``."""
    return {
        name.removesuffix(f".{_VERSION}"): str(stat.get("value", ""))
        for stat in _stats(document)
        if (name := str(stat.get("name", ""))).endswith(f".{_VERSION}")
    }


def parse_ports(document: Mapping[str, Any]) -> frozenset[int]:
    """From ``/listeners?format=json``."""
    places = (each.get("local_address") or {} for each in document.get("listener_statuses", ()))
    return frozenset(int((place.get("socket_address") or {}).get("port_value", 0)) for place in places)


def parse_started(document: Mapping[str, Any]) -> bool:
    """From ``/stats?format=json&filter=listener_manager.workers_started``."""
    return any(stat["name"] == _STARTED and int(stat.get("value", 0)) == 1 for stat in _stats(document))


def parse_requests(document: Mapping[str, Any]) -> int:
    """From ``/stats?format=json&filter=downstream_rq_active``: of the listeners, not of the admin interface itself."""
    return sum(
        int(stat.get("value", 0))
        for stat in _stats(document)
        if str(stat["name"]).startswith("http.") and not str(stat["name"]).startswith("http.admin.")
    )


def parse_refused(document: Mapping[str, Any]) -> str:
    """From ``/config_dump``: the first thing that Envoy did not take, on one line."""
    for each in document.get("configs", ()):
        if details := (each.get("error_state") or {}).get("details"):
            return " ".join(str(details).split())
    return ""


def _stats(document: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    # Among plain ones are histograms, which are shaped otherwise.
    return [each for each in document.get("stats", ()) if "name" in each]


def _host(status: Mapping[str, Any]) -> tuple[str, Host]:
    place = (status.get("address") or {}).get("socket_address") or {}
    address = str(place.get("address", ""))
    # Those that wait for a connection are under way as well.
    active = sum(int(each.get("value", 0)) for each in status.get("stats", ()) if each.get("name") in _ACTIVE)
    draining = (status.get("health_status") or {}).get("eds_health_status") == "DRAINING"
    host = f"[{address}]" if ":" in address else address
    return f"{host}:{place.get('port_value', 0)}", Host(draining, active)


# MERGED Which statistic of Envoy's tells that it uses a file. Pure.

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
