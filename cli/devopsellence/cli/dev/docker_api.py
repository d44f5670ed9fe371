"""Client for the few Docker Engine requests of ``dev up`` and ``dev down`` (HTTP API 1.24 or newer).

Uses only the standard library, so ``dev down`` works without the ``docker`` command and without the agent.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

DEFAULT_HOST: Final = "unix:///var/run/docker.sock"
UID_LABEL: Final = "devopsellence.node_uid"
# Label of the ingress container.
ROUTER_LABEL: Final = "devopsellence.router"
NONCE_LABEL: Final = "devopsellence.nonce"
# Labels with another value in each container or spec: an image with the same value is a copy (docker commit).
_UNIQUE_LABELS: Final = (NONCE_LABEL, "devopsellence.hash", ROUTER_LABEL)
_ANSWER_SECONDS: Final = 5.0
# The stop request returns after the end of the container, within its grace period.
_STOP_SECONDS: Final = 600.0
_PARALLEL: Final = 8


class DockerHttpError(Exception):
    """The Docker Engine does not answer or refused a request; the message has the request and the address."""


@dataclass(frozen=True)
class NodeContainer:
    """Container created by the node of the local cluster."""

    id: str
    name: str
    running: bool


def default_host(environ: Mapping[str, str] = os.environ) -> str:
    """Return the address of Docker: ``DOCKER_HOST``, else the usual socket, else the socket of rootless Docker."""
    if docker_host := environ.get("DOCKER_HOST"):
        return docker_host
    rootless = Path(environ.get("XDG_RUNTIME_DIR", "")) / "docker.sock"
    if not Path(DEFAULT_HOST.removeprefix("unix://")).exists() and rootless.is_absolute() and rootless.exists():
        return f"unix://{rootless}"
    return DEFAULT_HOST


class DockerHttpApi:
    """Docker Engine at ``unix:///path`` or ``tcp://address:port``. Every call opens a connection.

    Raises:
        DockerHttpError: from every call.
    """

    def __init__(self, host: str) -> None:
        self.host = host

    def version(self) -> str:
        """Return the version of the engine, such as "20.10.24"."""
        answer = self._request("GET", "/version")
        if not isinstance(answer, dict) or "Version" not in answer:
            raise DockerHttpError(f"the server at {self.host} is not a Docker Engine")
        return str(answer["Version"])

    def containers(self, uid: str, ledger: Path) -> list[NodeContainer]:
        """Return the containers that the node ``uid`` has created, running or not.

        ``ledger``: the agent's file of its containers. Without it, a container whose image carries the same labels is
        somebody else's.
        """
        answer = self._request("GET", "/containers/json", all="1", filters=_labelled(uid))
        entries = _ledger_entries(ledger)
        return [
            NodeContainer(item["Id"], _name(item), item["State"] == "running")
            for item in answer
            if (_is_listed(item, entries) if entries is not None else not self._is_copy(item))
        ]

    def _is_copy(self, item: Mapping[str, Any]) -> bool:
        """Return True if the container has its labels from its image."""
        try:
            image = self._request("GET", f"/images/{quote(item['ImageID'])}/json")
        except DockerHttpError:
            return False
        inherited = (image.get("Config") or {}).get("Labels") or {}
        return any(
            item["Labels"].get(label) and item["Labels"][label] == inherited.get(label) for label in _UNIQUE_LABELS
        )

    def routes(self, uid: str) -> bool:
        """Return True if the ingress container of the node ``uid`` is running."""
        answer = self._request("GET", "/containers/json", filters=_labelled(uid, ROUTER_LABEL))
        return any(item["Labels"].get(ROUTER_LABEL) for item in answer)

    def networks(self, uid: str) -> list[str]:
        """Return the ids of all networks of the node ``uid``."""
        return [network["Id"] for network in self._request("GET", "/networks", filters=_labelled(uid))]

    def volumes(self, uid: str, ledger: Path) -> list[str]:
        """Return the names of all volumes of the node ``uid``, also anonymous ones named in the agent's ``ledger``."""
        answer = self._request("GET", "/volumes", filters=_labelled(uid))
        anonymous = [str(volume.get("name")) for volume in _ledger(ledger, "image_volumes") or []]
        anonymous += [str(volume.get("used")) for volume in _ledger(ledger, "stand_ins") or []]
        return list(dict.fromkeys([*(volume["Name"] for volume in answer["Volumes"] or []), *anonymous]))

    def stop(self, containers: list[NodeContainer]) -> None:
        """Stop containers in parallel, with the grace period of each container."""
        self._for_all("POST", [f"/containers/{container.id}/stop" for container in containers])

    def remove_containers(self, containers: list[NodeContainer]) -> None:
        """Remove containers, also running ones, and their anonymous volumes."""
        self._for_all("DELETE", [f"/containers/{container.id}" for container in containers], force="1", v="1")

    def remove_networks(self, ids: list[str]) -> None:
        self._for_all("DELETE", [f"/networks/{network}" for network in ids])

    def remove_volumes(self, names: list[str]) -> None:
        self._for_all("DELETE", [f"/volumes/{quote(name)}" for name in names])

    def _for_all(self, method: str, paths: list[str], **query: str) -> None:
        with ThreadPoolExecutor(_PARALLEL) as pool:
            list(pool.map(lambda path: self._request(method, path, _STOP_SECONDS, **query), paths))

    def _request(self, method: str, path: str, seconds: float = _ANSWER_SECONDS, **query: str) -> Any:
        connection = self._connection(seconds)
        try:
            connection.request(method, f"{path}?{urlencode(query)}" if query else path, headers={"Host": "docker"})
            answer = connection.getresponse()
            body = answer.read()
            # 304: already stopped; 404: already removed.
            if answer.status >= 400 and not (answer.status == 404 and method != "GET"):
                raise DockerHttpError(f"the Docker Engine at {self.host} refused {method} {path}: {_message(body)}")
            return json.loads(body) if body and answer.status == 200 else None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise DockerHttpError(self._why(error)) from error
        finally:
            connection.close()

    def _connection(self, seconds: float) -> http.client.HTTPConnection:
        parts = urlsplit(self.host)
        if parts.scheme == "unix" and parts.path:
            return _UnixConnection(parts.path, seconds)
        try:
            if parts.scheme in ("tcp", "http") and parts.hostname:
                return http.client.HTTPConnection(parts.hostname, parts.port or 2375, timeout=seconds)
        except ValueError:
            pass  # the port is not a number
        raise DockerHttpError(
            f"{self.host!r} is no address of a Docker Engine: give unix:///path or tcp://address:port"
        )

    def _why(self, error: Exception) -> str:
        match error:
            case FileNotFoundError():
                return f"no Docker Engine at {self.host}: the socket does not exist"
            case PermissionError():
                return f"permission denied for the Docker Engine at {self.host}"
            case ConnectionRefusedError():
                return f"the Docker Engine at {self.host} is not running: connection refused"
            case TimeoutError():
                return f"the Docker Engine at {self.host} did not answer in time"
            case _:
                return f"the Docker Engine at {self.host} does not answer: {error or type(error).__name__}"


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, seconds: float) -> None:
        super().__init__("docker", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _name(item: Mapping[str, Any]) -> str:
    return str(item["Names"][0]).lstrip("/")


def _ledger_entries(path: Path) -> list[Mapping[str, Any]] | None:
    """Return the entries of the agent's file of containers; None without a readable file."""
    return _ledger(path, "containers")


def _ledger(path: Path, field: str) -> list[Mapping[str, Any]] | None:
    try:
        return [dict(entry) for entry in json.loads(path.read_bytes())[field]]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_listed(item: Mapping[str, Any], entries: list[Mapping[str, Any]]) -> bool:
    """Return True if the entries name the container, or its creation was cut off before the id was written."""
    nonce, name = item["Labels"].get(NONCE_LABEL), _name(item)
    return any(
        entry.get("id") == item["Id"]
        or (not entry.get("id") and nonce and (entry.get("nonce"), entry.get("name")) == (nonce, name))
        for entry in entries
    )


def _labelled(uid: str, *labels: str) -> str:
    return json.dumps({"label": [f"{UID_LABEL}={uid}", *labels]})


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace").strip() or "no reason given"
