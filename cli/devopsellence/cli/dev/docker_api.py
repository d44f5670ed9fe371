"""The few requests to the Docker Engine that starting and stopping the local cluster needs (its HTTP API, 1.24 and up).

The standard library suffices, and ``dev down`` works where neither the ``docker`` command nor the agent does.
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
# On the container through which requests from outside come.
ROUTER_LABEL: Final = "devopsellence.router"
_ANSWER_SECONDS: Final = 5.0
# Stopping answers when the container has ended, which takes up to its own grace period.
_STOP_SECONDS: Final = 600.0
_PARALLEL: Final = 8


class DockerHttpError(Exception):
    """The engine does not answer, or refused; the message says what and where."""


@dataclass(frozen=True)
class NodeContainer:
    id: str
    name: str
    running: bool


def default_host(environ: Mapping[str, str] = os.environ) -> str:
    """Where Docker is meant to be: ``DOCKER_HOST``, else its usual socket, else that of this user's rootless engine."""
    if given := environ.get("DOCKER_HOST"):
        return given
    rootless = Path(environ.get("XDG_RUNTIME_DIR", "")) / "docker.sock"
    if not Path(DEFAULT_HOST.removeprefix("unix://")).exists() and rootless.is_absolute() and rootless.exists():
        return f"unix://{rootless}"
    return DEFAULT_HOST


class DockerHttpApi:
    """One engine, at ``unix:///path`` or ``tcp://address:port``. Every call connects anew and raises EngineError."""

    def __init__(self, host: str) -> None:
        self.host = host

    def version(self) -> str:
        """The engine's version, such as "20.10.24"."""
        answer = self._request("GET", "/version")
        if not isinstance(answer, dict) or "Version" not in answer:
            raise DockerHttpError(f"what answers at {self.host} is no Docker Engine")
        return str(answer["Version"])

    def containers(self, uid: str) -> list[NodeContainer]:
        """All containers, running or not, that the node ``uid`` made."""
        found = self._request("GET", "/containers/json", all="1", filters=_labelled(uid))
        return [NodeContainer(each["Id"], each["Names"][0].lstrip("/"), each["State"] == "running") for each in found]

    def routes(self, uid: str) -> bool:
        """The container through which requests reach the apps of the node ``uid`` runs."""
        found = self._request("GET", "/containers/json", filters=_labelled(uid, ROUTER_LABEL))
        return bool(found)

    def networks(self, uid: str) -> list[str]:
        """The ids of all networks that the node ``uid`` made."""
        return [each["Id"] for each in self._request("GET", "/networks", filters=_labelled(uid))]

    def volumes(self, uid: str) -> list[str]:
        """The names of all volumes that the node ``uid`` made."""
        return [each["Name"] for each in self._request("GET", "/volumes", filters=_labelled(uid))["Volumes"] or []]

    def stop(self, containers: list[NodeContainer]) -> None:
        """Stop them, several at a time, each with the grace period that it was created with."""
        self._each("POST", [f"/containers/{container.id}/stop" for container in containers])

    def remove_containers(self, containers: list[NodeContainer]) -> None:
        """Remove them and their unnamed volumes, also those that run."""
        self._each("DELETE", [f"/containers/{container.id}" for container in containers], force="1", v="1")

    def remove_networks(self, ids: list[str]) -> None:
        self._each("DELETE", [f"/networks/{each}" for each in ids])

    def remove_volumes(self, names: list[str]) -> None:
        self._each("DELETE", [f"/volumes/{quote(name)}" for name in names])

    def _each(self, method: str, paths: list[str], **query: str) -> None:
        with ThreadPoolExecutor(_PARALLEL) as pool:
            list(pool.map(lambda path: self._request(method, path, _STOP_SECONDS, **query), paths))

    def _request(self, method: str, path: str, seconds: float = _ANSWER_SECONDS, **query: str) -> Any:
        connection = self._connection(seconds)
        try:
            connection.request(method, f"{path}?{urlencode(query)}" if query else path, headers={"Host": "docker"})
            answer = connection.getresponse()
            body = answer.read()
            # 304: stopped already; 404: gone already.
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
            pass  # the port is no number
        raise DockerHttpError(
            f"{self.host!r} is no address of a Docker Engine: give unix:///path or tcp://address:port"
        )

    def _why(self, error: Exception) -> str:
        match error:
            case FileNotFoundError():
                return f"there is no Docker Engine at {self.host}: the socket does not exist"
            case PermissionError():
                return f"you may not use the Docker Engine at {self.host}: permission denied"
            case ConnectionRefusedError():
                return f"the Docker Engine at {self.host} does not run: nobody listens on the socket"
            case TimeoutError():
                return f"the Docker Engine at {self.host} does not answer in time"
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


def _labelled(uid: str, *labels: str) -> str:
    return json.dumps({"label": [f"{UID_LABEL}={uid}", *labels]})


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace").strip() or "no reason given"
