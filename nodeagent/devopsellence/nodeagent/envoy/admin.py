"""Client of Envoy's admin API over a unix socket: endpoints, connections, file versions, rejected configuration.

One connection per request; responses have a size limit. Pure functions parse the responses, whose shapes are Envoy's
``admin.v3`` messages as JSON (``Clusters``, ``ListenersConfigDump``) and Envoy's list of statistics. Also here: the
version statistics by which Envoy confirms each of its files.
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
#: Limit for a response. Envoy's main thread responds and is seldom busy for long; a stopped Envoy must not block the
#: agent.
TIMEOUT_SECONDS: Final = 2.0
#: Two hundred hosts with routes and clusters take about a tenth of this.
_MAX_RESPONSE_BYTES: Final = 16 << 20
_VERSION: Final = "version_text"
_STARTED: Final = "listener_manager.workers_started"
_ACTIVE: Final = ("rq_active", "rq_pending_active")
_LISTENERS: Final = "listener_manager.lds"
_CLUSTERS: Final = "cluster_manager.cds"


class AdminUnavailable(Exception):
    """Envoy's admin API does not respond, or not as expected; the message says how."""


@dataclass(frozen=True, slots=True)
class UpstreamHost:
    """An endpoint as Envoy reports it: ``draining`` (no new requests) and the number of active requests."""

    draining: bool = False
    active_requests: int = 0


@dataclass(frozen=True, slots=True)
class EnvoyState:
    """Configuration in use by Envoy.

    ``clusters``: upstream hosts ("10.0.0.2:3000") by cluster. ``versions``: version of each file in use, by statistic
    without the suffix (``listener_manager.lds``, ``cluster.<name>``). ``ports``: TCP ports that Envoy listens on.
    """

    clusters: Mapping[str, Mapping[str, UpstreamHost]]
    versions: Mapping[str, str]
    ports: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class ExpectedVersion:
    """Version that Envoy reports once the file at ``path`` is in use."""

    path: str
    version: str


class AdminClient:
    """Client of the admin API with the socket in ``folder``. Lives on the event loop.

    All methods raise AdminUnavailable.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def read_state(self) -> EnvoyState:
        """Return the configuration in use by Envoy now."""
        clusters = parse_clusters(await self._json("GET", "/clusters?format=json"))
        versions = parse_versions(await self._json("GET", "/stats?format=json&type=TextReadouts"))
        return EnvoyState(clusters, versions, parse_ports(await self._json("GET", "/listeners?format=json")))

    async def is_listening(self) -> bool:
        """Return whether Envoy's worker threads listen; until then Envoy's ports refuse connections."""
        return parse_workers_started(await self._json("GET", f"/stats?format=json&filter={_STARTED}"))

    async def open_connections(self) -> int:
        """Return the number of open connections of all clients."""
        return parse_open_connections(await self._json("GET", "/stats?format=json&filter=downstream_cx_active"))

    async def rejected_config(self) -> str:
        """Return Envoy's reason for rejecting configuration; "" if all of it was accepted."""
        return parse_rejected_config(await self._json("GET", "/config_dump?resource=dynamic_listeners"))

    async def drain(self) -> None:
        """Send clients elsewhere: close all listeners, and ask clients to close connections after the next response.

        Not "graceful": Envoy would go on listening for the drain time, which is long (``config``).
        """
        await self._request("POST", "/drain_listeners")
        await self._request("POST", "/healthcheck/fail")

    async def _json(self, method: str, path: str) -> Any:
        try:
            return json.loads(await self._request(method, path))
        except ValueError as error:
            raise AdminUnavailable(f"Envoy's answer to {path} is not JSON: {error}") from error

    async def _request(self, method: str, path: str) -> bytes:
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                status, body = parse_response(await self._exchange(f"{method} {path} HTTP/1.1\r\n"))
        except TimeoutError as error:
            raise AdminUnavailable(
                f"Envoy's admin interface does not answer: no response within {TIMEOUT_SECONDS:.0f} s"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise AdminUnavailable(f"Envoy's admin interface does not answer: {error}") from error
        if status != http.client.OK:
            raise AdminUnavailable(f"Envoy's admin interface answers {path} with status {status}")
        return body

    async def _exchange(self, line: str) -> bytes:
        # The path of a unix socket is limited to 108 characters, a state folder is not: so by the folder's descriptor.
        folder = os.open(self._folder, os.O_PATH | os.O_DIRECTORY)
        try:
            reader, writer = await asyncio.open_unix_connection(f"/proc/self/fd/{folder}/{SOCKET}")
        finally:
            os.close(folder)
        try:
            writer.write(f"{line}host: admin\r\nconnection: close\r\n\r\n".encode())
            response = bytearray()
            while chunk := await reader.read(1 << 16):
                response += chunk
                if len(response) > _MAX_RESPONSE_BYTES:
                    raise AdminUnavailable("the response of Envoy's admin interface is too large")
            return bytes(response)
        finally:
            writer.close()


class _RecordedResponse:
    """A complete response as the "socket" for the standard library's parser."""

    def __init__(self, response: bytes) -> None:
        self._response = response

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._response)


def parse_response(response: bytes) -> tuple[int, bytes]:
    """Return status and body of a complete HTTP/1.1 response. Raises HTTPException for anything else."""
    parsed = http.client.HTTPResponse(cast("Any", _RecordedResponse(response)))
    parsed.begin()
    return parsed.status, parsed.read()


def parse_clusters(document: Mapping[str, Any]) -> dict[str, dict[str, UpstreamHost]]:
    """Parse ``/clusters?format=json``, in which values of 0 and "" are left out."""
    return {
        cluster["name"]: dict(_upstream_host(status) for status in cluster.get("host_statuses", ()))
        for cluster in document.get("cluster_statuses", ())
    }


def parse_versions(document: Mapping[str, Any]) -> dict[str, str]:
    """Parse ``/stats?format=json&type=TextReadouts``."""
    return {
        name.removesuffix(f".{_VERSION}"): str(statistic.get("value", ""))
        for statistic in _statistics(document)
        if (name := str(statistic.get("name", ""))).endswith(f".{_VERSION}")
    }


def parse_ports(document: Mapping[str, Any]) -> frozenset[int]:
    """Parse ``/listeners?format=json``."""
    addresses = (listener.get("local_address") or {} for listener in document.get("listener_statuses", ()))
    return frozenset(int((address.get("socket_address") or {}).get("port_value", 0)) for address in addresses)


def parse_workers_started(document: Mapping[str, Any]) -> bool:
    """Parse ``/stats?format=json&filter=listener_manager.workers_started``."""
    return any(
        statistic["name"] == _STARTED and int(statistic.get("value", 0)) == 1 for statistic in _statistics(document)
    )


def parse_open_connections(document: Mapping[str, Any]) -> int:
    """Parse ``/stats?format=json&filter=downstream_cx_active``: those to listeners, not to the admin API itself."""
    return sum(
        int(statistic.get("value", 0))
        for statistic in _statistics(document)
        if str(statistic["name"]).startswith("http.") and not str(statistic["name"]).startswith("http.admin.")
    )


def parse_rejected_config(document: Mapping[str, Any]) -> str:
    """Parse ``/config_dump``: the first error of a listener, on one line; "" if there is none."""
    for config in document.get("configs", ()):
        if details := (config.get("error_state") or {}).get("details"):
            return " ".join(str(details).split())
    return ""


def _statistics(document: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    # The list also holds histograms, of another shape.
    return [statistic for statistic in document.get("stats", ()) if "name" in statistic]


def _upstream_host(status: Mapping[str, Any]) -> tuple[str, UpstreamHost]:
    socket_address = (status.get("address") or {}).get("socket_address") or {}
    address = str(socket_address.get("address", ""))
    # Requests that wait for a connection are active as well.
    active = sum(int(gauge.get("value", 0)) for gauge in status.get("stats", ()) if gauge.get("name") in _ACTIVE)
    draining = (status.get("health_status") or {}).get("eds_health_status") == "DRAINING"
    host = f"[{address}]" if ":" in address else address
    return f"{host}:{socket_address.get('port_value', 0)}", UpstreamHost(draining, active)


def expected_versions(files: Mapping[str, bytes]) -> dict[str, ExpectedVersion]:
    """Return the versions that confirm the files of :func:`config.config_files`, by statistic as in
    :attr:`EnvoyState.versions`.

    Envoy reads routes only of existing listeners, and secrets while there are clusters, each of which uses them. Hosts'
    certificates are part of the listeners.
    """
    listeners = {str(listener["name"]) for listener in json.loads(files[LISTENERS])["resources"]}
    return _expected_versions(files, listeners, secrets=bool(json.loads(files[CLUSTERS])["resources"]))


def expected_endpoint_versions(files: Mapping[str, bytes]) -> dict[str, ExpectedVersion]:
    """Return the versions that confirm endpoints files, by statistic."""
    return _expected_versions(files, set(), secrets=False)


def _expected_versions(files: Mapping[str, bytes], listeners: set[str], *, secrets: bool) -> dict[str, ExpectedVersion]:
    versions: dict[str, ExpectedVersion] = {}
    for path, content in files.items():
        document = json.loads(content)
        statistic = _statistic(path, document, listeners, secrets=secrets)
        if statistic:
            versions[statistic] = ExpectedVersion(path, str(document["version_info"]))
    return versions


def listeners_statistic() -> str:
    """Return the version statistic of the listeners, and so of hosts' certificates."""
    return _LISTENERS


def routes_statistic(name: str) -> str:
    """Return the version statistic of the routes of a listener."""
    return f"http.{name}.rds.{name}"


def _statistic(path: str, document: Mapping[str, Any], listeners: set[str], *, secrets: bool) -> str:
    if path == LISTENERS:
        return _LISTENERS
    if path == CLUSTERS:
        return _CLUSTERS
    (resource,) = document["resources"]
    if path.startswith("rds/"):
        return routes_statistic(resource["name"]) if resource["name"] in listeners else ""
    if path.startswith("eds/"):
        return f"cluster.{resource['cluster_name']}"
    return f"sds.{resource['name']}" if secrets else ""
