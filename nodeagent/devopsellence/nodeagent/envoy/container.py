"""Envoy's container: what it is made of (pure), and the engine's calls that find, make and end it.

One runs on a node. Another configuration or image is another container, with a name and a folder of its own, so that
the next one can listen beside the last. It carries the node's labels but no environment's: what looks after
environments never sees it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from devopsellence.nodeagent.docker import names
from devopsellence.nodeagent.docker.client import Docker
from devopsellence.nodeagent.docker.errors import NotFound
from devopsellence.nodeagent.envoy.image import PROGRAM

#: Where the folder with Envoy's files is inside of the container.
FOLDER: Final = "/etc/envoy/devopsellence"
#: That folder on this machine, in the node's.
CONFIG: Final = "config"
#: In there, what belongs to one container alone: its static configuration and its admin socket.
RUN: Final = "run"
BOOTSTRAP: Final = "bootstrap.json"
#: How long a replaced Envoy goes on.
DRAIN_SECONDS: Final = 30
#: How long connections go on to a host whose certificate has been replaced.
_CHAIN_SECONDS: Final = 86_400
_LOGS: Final = {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "5"}}
_ARGUMENTS: Final = (
    *("--config-path", f"{FOLDER}/{RUN}/{BOOTSTRAP}"),
    # Shared memory and a socket of a well-known name, for something that containers do not do.
    "--disable-hot-restart",
    *("--drain-time-s", str(_CHAIN_SECONDS)),
    *("--file-flush-interval-msec", "1000", "--log-level", "warning"),
)


@dataclass(frozen=True, slots=True)
class EnvoySpec:
    """What a container is to be. ``folder``: the node's (``files.EnvoyFolder``). ``user``: numbers, ``uid:gid``."""

    node: str
    node_uid: str
    image: str
    folder: Path
    bootstrap: bytes
    concurrency: int
    user: str

    @property
    def hash(self) -> str:
        """Changes when the container must be another one."""
        return hashlib.sha256(json.dumps([self._body(""), self.bootstrap.decode()]).encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """``devopsellence-envoy-<6 hex digits>-<8 hex digits>``: of the node's uid, and of :attr:`hash`."""
        return f"devopsellence-envoy-{hashlib.sha256(self.node_uid.encode()).hexdigest()[:6]}-{self.hash[:8]}"

    @property
    def run(self) -> Path:
        """The container's own folder on this machine."""
        return run_folder(self.folder, self.hash)

    def body(self) -> dict[str, Any]:
        """Of the engine's ``POST /containers/create`` (API 1.41)."""
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
                "Mounts": [
                    _mount(self.folder / CONFIG, FOLDER, read_only=True),
                    _mount(run_folder(self.folder, spec_hash), f"{FOLDER}/{RUN}", read_only=False),
                ],
                "ReadonlyRootfs": True,
                "CapDrop": ["ALL"],
                "CapAdd": ["NET_BIND_SERVICE"],
                "SecurityOpt": ["no-new-privileges"],
                # It comes back by itself also while the agent is away (docs/decisions/0015).
                "RestartPolicy": {"Name": "unless-stopped"},
                "LogConfig": _LOGS,
            },
        }


def _mount(source: Path, target: str, *, read_only: bool) -> dict[str, Any]:
    return {"Type": "bind", "Source": str(source), "Target": target, "ReadOnly": read_only}


def run_folder(folder: Path, spec_hash: str) -> Path:
    """The own folder of the container with this hash."""
    return folder / RUN / spec_hash


def user() -> str:
    """The agent's own, so that Envoy can read what only the agent's user can."""
    return f"{os.geteuid()}:{os.getegid()}"


@dataclass(frozen=True, slots=True)
class Found:
    """A container of Envoy's as the engine shows it."""

    id: str
    name: str
    hash: str
    running: bool


def find(docker: Docker, node_uid: str) -> list[Found]:
    """This node's, by name. Blocks, as all below; raises EngineError."""
    ours = {"label": [f"{names.LABEL_NODE_UID}={node_uid}", names.LABEL_ROUTER]}
    found = []
    with docker.client() as client:
        listed = client.containers(all=True, filters=ours)
    for each in listed:
        # A listing lags behind the event of an end, and ahead of a removal.
        with suppress(NotFound), docker.client() as client:
            found.append(_found(client.inspect_container(each["Id"])))
    return sorted(found, key=lambda each: each.name)


def _found(document: Mapping[str, Any]) -> Found:
    labels = document["Config"].get("Labels") or {}
    # One that the engine is about to start again counts.
    running = document["State"]["Status"] in ("running", "restarting")
    name = str(document["Name"]).lstrip("/")
    return Found(str(document["Id"]), name, str(labels.get(names.LABEL_ROUTER, "")), running)


def begin(docker: Docker, container: str) -> None:
    """Start it, unless it runs."""
    with docker.client() as client:
        client.start(container)


def end(docker: Docker, container: str) -> None:
    """Stop it with its grace period, and remove it."""
    docker.stop(container)
    docker.remove(container, force=True)


def last_words(docker: Docker, container: str) -> str:
    """The last line that it wrote to stderr, shortened."""
    with docker.client() as client:
        raw = client.logs(container, stdout=False, tail=1)
    return " ".join(bytes(raw).decode(errors="replace").split())[:500]
