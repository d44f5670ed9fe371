"""Envoy's container: specification (pure), and Docker calls to find, start and remove the container.

A node runs a single Envoy. A new bootstrap configuration or image means a new container, with a name and a folder of
its own, so that the new Envoy can listen beside the old. The container carries the node's labels and no environment's,
so that reconciling environments never touches the container.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from devopsellence import clock
from devopsellence.nodeagent.docker import names
from devopsellence.nodeagent.docker.cache import parse_inspected
from devopsellence.nodeagent.docker.client import DockerClient
from devopsellence.nodeagent.docker.errors import NotFound
from devopsellence.nodeagent.docker.model import Container
from devopsellence.nodeagent.envoy.admin import SOCKET
from devopsellence.nodeagent.envoy.image import PROGRAM

#: Path of Envoy's files inside the container.
FOLDER: Final = "/etc/envoy/devopsellence"
#: Folder of Envoy's files within the node's Envoy folder.
CONFIG: Final = "config"
#: Folder with a subfolder per container: bootstrap configuration and admin socket.
RUN: Final = "run"
BOOTSTRAP: Final = "bootstrap.json"
#: Time limit for the connections of a replaced Envoy.
DRAIN_SECONDS: Final = 30
#: Time limit for connections that use a replaced certificate.
_CERTIFICATE_DRAIN_SECONDS: Final = 86_400
_LOGS: Final = {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "5"}}
_ARGUMENTS: Final = (
    *("--config-path", f"{FOLDER}/{RUN}/{BOOTSTRAP}"),
    # Hot restart shares memory between Envoys and needs a socket of a fixed name; a container is replaced instead.
    "--disable-hot-restart",
    *("--drain-time-s", str(_CERTIFICATE_DRAIN_SECONDS)),
    *("--file-flush-interval-msec", "1000", "--log-level", "warning"),
)


@dataclass(frozen=True, slots=True)
class EnvoySpec:
    """Specification of Envoy's container.

    ``folder``: path of ``files.EnvoyFolder``. ``user``: ``uid:gid``, in numbers. ``instance``: tells containers apart
    that are the same otherwise; empty for the first.
    """

    node: str
    node_uid: str
    image: str
    folder: Path
    bootstrap: bytes
    concurrency: int
    user: str
    instance: str = ""

    @property
    def hash(self) -> str:
        """16 hex digits of a hash; a changed hash means a new container."""
        parts = [self._body(""), self.bootstrap.decode(), *([self.instance] if self.instance else [])]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """Container name: ``devopsellence-envoy-<6 hex digits>-<8 hex digits>``, of node uid and :attr:`hash`."""
        return names.envoy_name(self.node_uid, self.hash)

    @property
    def run(self) -> Path:
        """The container's own folder on the node."""
        return run_folder(self.folder, self.hash)

    def body(self) -> dict[str, Any]:
        """Return the body of ``POST /containers/create`` (Docker API 1.41)."""
        return self._body(self.hash)

    def _body(self, spec_hash: str) -> dict[str, Any]:
        return {
            "Image": self.image,
            "Entrypoint": [PROGRAM],
            "Cmd": [*_ARGUMENTS, "--concurrency", str(self.concurrency)],
            "User": self.user,
            "WorkingDir": "/",
            "Labels": {
                names.LABEL_MANAGED: "true",
                names.LABEL_NODE: self.node,
                names.LABEL_NODE_UID: self.node_uid,
                names.LABEL_ROUTER: spec_hash,
            },
            "StopTimeout": DRAIN_SECONDS,
            "HostConfig": {
                "NetworkMode": "host",
                # With userns-remap in the engine, neither the host's network nor the agent's files are for other users.
                "UsernsMode": "host",
                "Mounts": [
                    _mount(self.folder / CONFIG, FOLDER, read_only=True),
                    _mount(run_folder(self.folder, spec_hash), f"{FOLDER}/{RUN}", read_only=False),
                ],
                "ReadonlyRootfs": True,
                "CapDrop": ["ALL"],
                "CapAdd": ["NET_BIND_SERVICE"],
                "SecurityOpt": ["no-new-privileges"],
                # Envoy is restarted even while the agent is down (docs/decisions/0015).
                "RestartPolicy": {"Name": "unless-stopped"},
                "LogConfig": _LOGS,
            },
        }


def _mount(source: Path, target: str, *, read_only: bool) -> dict[str, Any]:
    return {"Type": "bind", "Source": str(source), "Target": target, "ReadOnly": read_only}


def run_folder(folder: Path, spec_hash: str) -> Path:
    """Return the folder of the container with this hash."""
    return folder / RUN / spec_hash


def user() -> str:
    """Return the agent's own ``uid:gid``, so that Envoy can read files private to the agent's user."""
    return f"{os.geteuid()}:{os.getegid()}"


@dataclass(frozen=True, slots=True)
class EnvoyContainer:
    """An Envoy container as Docker reports it; ``pid``: of its first process, 0 if it does not run."""

    id: str
    name: str
    hash: str
    running: bool
    #: The same container for the ledger, which tells whether it is this agent's.
    container: Container = field(compare=False)
    pid: int = 0

    def admin_folder(self, folder: Path) -> Path:
        """Return the folder of its admin socket: as the container finds it, if that can be seen from here.

        The folder on the node may be another one now (``files.EnvoyFolder.is_mounted``).
        """
        inside = Path(f"/proc/{self.pid}/root{FOLDER}/{RUN}")
        with suppress(OSError):
            if self.pid and (inside / SOCKET).exists():
                return inside
        return run_folder(folder, self.hash)


def find_containers(docker: DockerClient, node_uid: str) -> list[EnvoyContainer]:
    """Return the containers labelled as this node's Envoys, sorted by name.

    Blocks, like all functions below. Raises EngineError.
    """
    filters = {"label": [f"{names.LABEL_NODE_UID}={node_uid}", names.LABEL_ROUTER]}
    containers = []
    with docker.client() as client:
        listed = client.containers(all=True, filters=filters)
    for summary in listed:
        # The listing may lag behind events, and may include containers that are removed in the meantime.
        with suppress(NotFound), docker.client() as client:
            envoy = _envoy_container(client.inspect_container(summary["Id"]))
            containers += [envoy] if envoy.hash else []
    return sorted(containers, key=lambda container: container.name)


def _envoy_container(document: Mapping[str, Any]) -> EnvoyContainer:
    labels = document["Config"].get("Labels") or {}
    # A container about to be restarted by Docker counts as running.
    running = document["State"]["Status"] in ("running", "restarting")
    name = str(document["Name"]).lstrip("/")
    pid = int(document["State"].get("Pid") or 0)
    container = parse_inspected(document, clock.now().mono)
    return EnvoyContainer(str(document["Id"]), name, str(labels.get(names.LABEL_ROUTER, "")), running, container, pid)


def start(docker: DockerClient, container: str) -> None:
    """Start a container, unless the container runs."""
    with docker.client() as client:
        client.start(container)


def remove(docker: DockerClient, container: str) -> None:
    """Stop a container within its grace period, and remove it."""
    docker.stop(container)
    docker.remove(container, force=True)


def last_log_line(docker: DockerClient, container: str) -> str:
    """Return the last line on stderr, cut to 500 characters."""
    with docker.client() as client:
        raw = client.logs(container, stdout=False, tail=1)
    return " ".join(bytes(raw).decode(errors="replace").split())[:500]
