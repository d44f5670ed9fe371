"""Folder of Envoy's files on the node: configuration, a folder per container, and the router's own snapshots. Blocks.

Envoy reads a file again when a new file is renamed to its path. A new file is written before, and a stale file removed
after, every file that refers to it: no file that Envoy reads refers to a missing file (Envoy, "eventual consistency
considerations").

Snapshots hold routing configuration and endpoints of one environment, so that the next agent goes on where this agent
stopped: Envoy's shared files mix all environments, and rewriting a file for one environment needs the rest.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, TypeAlias

import structlog

from devopsellence.clock import Now
from devopsellence.nodeagent.envoy.config import WRITE_ORDER
from devopsellence.nodeagent.envoy.container import BOOTSTRAP, CONFIG, RUN, run_folder
from devopsellence.nodeagent.envoy.endpoints import EndpointKey, TrackedEndpoint, TrackedEndpoints
from devopsellence.nodeagent.envoy.model import Backend, Endpoint, Route, RouterPeer, RoutingConfig, TlsCertificate
from devopsellence.nodeagent.state_files import StateFiles
from devopsellence.store.keys import EnvironmentRef

#: Folder in which earlier versions gave Envoy the node's own certificate and key.
_NODE_CERTIFICATE: Final = "node"
_SNAPSHOTS: Final = "kept"
_PORTS: Final = "ports.json"
_MOUNTED: Final = "mounted.json"
_log = structlog.get_logger()

#: Routing of an environment (None: not routed any more) and its endpoints.
RoutingSnapshot: TypeAlias = tuple[EnvironmentRef, RoutingConfig | None, dict[EndpointKey, TrackedEndpoint]]


class EnvoyFolder:
    """Envoy's folder of one node: ``config`` (mounted into containers), ``run`` (a folder per container), snapshots."""

    def __init__(self, path: Path, files: StateFiles | None = None) -> None:
        self.path = path
        self._files = files or StateFiles(path)

    def create(self) -> None:
        """Create the folder, readable by the agent's user only. Raises OSError."""
        config = self.path / CONFIG
        for folder in (self.path, self.path / RUN, self.path / _SNAPSHOTS, config, config / RUN):
            self._files.make_folder(folder)

    def load(self, now: Now) -> tuple[list[RoutingSnapshot], set[EnvironmentRef]]:
        """Return all snapshots, and the environments whose snapshot cannot be read, which is logged."""
        snapshots: list[RoutingSnapshot] = []
        unreadable: set[EnvironmentRef] = set()
        for path in sorted((self.path / _SNAPSHOTS).glob("*.json")):
            try:
                content = self._files.read(path)
                snapshots.append(snapshot_from_bytes(content, now))
            except (OSError, ValueError) as error:
                _log.warning("unreadable routing snapshot", path=str(path), error=str(error))
                with suppress(ValueError):
                    unreadable.add(EnvironmentRef.parse(path.stem.replace("+", "/")))
            else:
                self._files.adopt(path, content)
        return snapshots, unreadable

    def count(self) -> int:
        """Return the number of Envoy's files on disk."""
        return len(self._existing())

    def last_ports(self) -> tuple[int, ...] | None:
        """Return the ports of Envoy's last configuration on disk; None if they cannot be read."""
        try:
            return tuple(int(port) for port in json.loads(self._files.read(self.path / _PORTS)))
        except (OSError, ValueError, TypeError) as error:
            _log.warning("the ports of Envoy on disk cannot be read", path=str(self.path / _PORTS), error=str(error))
        return None

    def write(
        self,
        snapshots: Mapping[EnvironmentRef, bytes | None],
        files: Mapping[str, bytes],
        ports: Iterable[int],
    ) -> bool:
        """Write changed files only; return whether a file of Envoy's changed. Raises OSError.

        ``snapshots``: of environments that may have changed; None removes the snapshot. ``files``: all files of
        Envoy's.
        """
        for ref, snapshot in snapshots.items():
            if snapshot is not None:
                self._put(_snapshot_name(ref), snapshot)
        changed = [name for name in files if not self.holds(name, files[name])]
        for name in sorted(changed, key=_rank):
            self._put(f"{CONFIG}/{name}", files[name])
        stale = self._stale(files)
        for path in stale:
            self._files.remove(path)
        for ref, snapshot in snapshots.items():
            if snapshot is None:
                self._files.remove(self.path / _snapshot_name(ref))
        self._put(_PORTS, json.dumps(sorted(ports)).encode())
        # No file refers to it any more.
        shutil.rmtree(self.path / CONFIG / _NODE_CERTIFICATE, ignore_errors=True)
        return bool(changed or stale)

    def holds(self, name: str, content: bytes) -> bool:
        """Return whether a file of Envoy's has this content."""
        return self._files.holds(self.path / CONFIG / name, content)

    def rewrite(self, names: Iterable[str]) -> None:
        """Write some of Envoy's files again, unchanged, so that Envoy retries rejected files. Raises OSError."""
        for name in names:
            path = self.path / CONFIG / name
            self._files.write(path, self._files.read(path), sync=False)

    def create_run_folder(self, spec_hash: str, bootstrap: bytes) -> None:
        """Create a container's own folder with its bootstrap configuration. Raises OSError."""
        run = run_folder(self.path, spec_hash)
        self._files.make_folder(run)
        self._files.write(run / BOOTSTRAP, bootstrap, sync=False)

    def instance(self) -> str:
        """Return the instance of Envoy's container to run; see :class:`EnvoySpec`."""
        return self._mounted()[0]

    def note_mounted(self, instance: str, spec_hash: str) -> None:
        """Note that the container with this hash, about to be started, gets the folders as they are now. Raises
        OSError."""
        document = {"instance": instance, "mounted": {spec_hash: self._identity(spec_hash)}}
        self._put(_MOUNTED, json.dumps(document).encode())

    def is_mounted(self, spec_hash: str) -> bool:
        """Return whether the running container with this hash uses the folders that are here now.

        A folder that was removed and created again, or hidden by a mount, is another folder: the container goes on with
        the former one. Without a note (of version 0.1) the folders are taken to be the same.
        """
        noted = self._mounted()[1].get(spec_hash, "")
        return self._identity(spec_hash) == noted if noted else (run_folder(self.path, spec_hash) / BOOTSTRAP).exists()

    def _mounted(self) -> tuple[str, dict[str, str]]:
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            document = json.loads(self._files.read(self.path / _MOUNTED))
            return str(document["instance"]), dict(document["mounted"])
        return "", {}

    def _identity(self, spec_hash: str) -> str:
        """Return inode and file system of the folders of a container; empty if one is missing."""
        parts = []
        for folder in (self.path / CONFIG, run_folder(self.path, spec_hash)):
            try:
                parts.append(f"{folder.stat().st_ino}@{os.statvfs(folder).f_fsid:x}")
            except OSError:
                return ""
        return "+".join(parts)

    def remove_run_folders(self, in_use: Iterable[str]) -> None:
        """Remove the folders of all containers but those with the hashes ``in_use``."""
        hashes = set(in_use)
        self._files.make_folder(self.path / RUN)
        for folder in (self.path / RUN).iterdir():
            if folder.name not in hashes:
                self._files.forget_folder(folder)
                shutil.rmtree(folder, ignore_errors=True)

    def _put(self, name: str, content: bytes) -> None:
        path = self.path / name
        if not self._files.holds(path, content):
            self._files.write(path, content, sync=False)

    def _stale(self, files: Mapping[str, bytes]) -> list[Path]:
        existing = self._existing()
        # The reverse of the write order.
        return [existing[name] for name in sorted(existing, key=_rank, reverse=True) if name not in files]

    def _existing(self) -> dict[str, Path]:
        config = self.path / CONFIG
        paths = {str(path.relative_to(config)): path for path in config.rglob("*.json")}
        return {name: path for name, path in paths.items() if name.startswith(WRITE_ORDER)}


def _snapshot_name(ref: EnvironmentRef) -> str:
    return f"{_SNAPSHOTS}/{str(ref).replace('/', '+')}.json"


def _rank(name: str) -> tuple[int, str]:
    """Return the sort key for the write order."""
    ranks = (rank for rank, beginning in enumerate(WRITE_ORDER) if name.startswith(beginning))
    return next(ranks, len(WRITE_ORDER)), name


def snapshot_to_bytes(ref: EnvironmentRef, config: RoutingConfig | None, tracked: TrackedEndpoints, now: Now) -> bytes:
    """Encode the snapshot of an environment: routing configuration and endpoints, as JSON. It holds private keys."""
    snapshot = {
        "env": str(ref),
        "site": None if config is None else _config_to_fields(config),
        "places": [
            {
                "service": key.service,
                "port": key.port,
                "endpoint": asdict(endpoint.endpoint),
                "limit": now.wall + endpoint.drain_deadline - now.mono if endpoint.endpoint.draining else 0.0,
            }
            for key, endpoint in sorted(tracked.items())
            if key.ref == ref
        ],
    }
    return json.dumps(snapshot, sort_keys=True).encode()


def snapshot_from_bytes(content: bytes, now: Now) -> RoutingSnapshot:
    """Decode a snapshot, perhaps of an earlier boot of the machine. Raises ValueError for anything else.

    No drain takes longer than the routing configuration allows, even if the wall clock was set back.
    """
    try:
        snapshot: Any = json.loads(content)
        ref = EnvironmentRef.parse(snapshot["env"])
        config = None if snapshot["site"] is None else _config_from_fields(ref, snapshot["site"])
        longest = config.drain_seconds if config is not None else RoutingConfig(ref, (), (), ()).drain_seconds
        tracked = {}
        for fields in snapshot["places"]:
            endpoint = Endpoint(**fields["endpoint"])
            remaining = min(max(0.0, fields["limit"] - now.wall), longest)
            key = EndpointKey(ref, fields["service"], fields["port"], endpoint.container)
            deadline = now.mono + remaining if endpoint.draining else 0.0
            seconds = remaining if endpoint.draining else 0.0
            tracked[key] = TrackedEndpoint(endpoint, drain_deadline=deadline, drain_seconds=seconds)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    return ref, config, tracked


def _config_to_fields(config: RoutingConfig) -> dict[str, Any]:
    fields = asdict(config)
    del fields["ref"]
    return fields


def _config_from_fields(ref: EnvironmentRef, fields: Mapping[str, Any]) -> RoutingConfig:
    decoded = {
        "hosts": tuple(fields["hosts"]),
        "routes": tuple(Route(**route) for route in fields["routes"]),
        "backends": tuple(
            Backend(
                backend["service"], backend["port"], tuple(Endpoint(**endpoint) for endpoint in backend["endpoints"])
            )
            for backend in fields["backends"]
        ),
        "certificates": {host: TlsCertificate(**certificate) for host, certificate in fields["certificates"].items()},
        "challenges": {
            host: tuple((token, authorization) for token, authorization in challenges)
            for host, challenges in fields["challenges"].items()
        },
        "peers": tuple(RouterPeer(**peer) for peer in fields["peers"]),
        "held_hosts": tuple(fields.get("held_hosts", ())),
        "forwarders": tuple(fields["forwarders"]) if fields.get("forwarders") is not None else None,
    }
    return RoutingConfig(ref, **{**fields, **decoded})
