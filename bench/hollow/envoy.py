"""Hollow Envoy: reads the files of the node's real router, and tells the router what is in use; without requests.

Everything above it is the code of the real agent: routing, endpoints, files, their versions, drains.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

from bench.hollow.machine import HollowMachine
from devopsellence.nodeagent.agent import connect_router
from devopsellence.nodeagent.docker.engine import DockerEngine
from devopsellence.nodeagent.envoy.admin import (
    AdminClient,
    AdminUnavailable,
    EnvoyState,
    UpstreamHost,
    expected_versions,
)
from devopsellence.nodeagent.envoy.clusters import METADATA
from devopsellence.nodeagent.envoy.container import CONFIG, FOLDER
from devopsellence.nodeagent.envoy.files import EnvoyFolder
from devopsellence.nodeagent.envoy.model import IngressOptions, PeerTls
from devopsellence.nodeagent.envoy.render import ConfigRenderer
from devopsellence.nodeagent.envoy.resources import CLUSTERS, LISTENERS
from devopsellence.nodeagent.envoy.routes import HTTP, routes_path
from devopsellence.nodeagent.envoy.supervisor import EnvoySupervisor
from devopsellence.nodeagent.event_bus import EventBus
from devopsellence.nodeagent.ingress.ports import ListenerPorts
from devopsellence.nodeagent.ingress.router import Router
from devopsellence.nodeagent.state import StateFolder
from devopsellence.nodeagent.util.threads import ThreadPool

#: Hash of the one container that a hollow node's Envoy runs in.
_HASH: Final = "hollow"
#: Inode and time of the last change: what tells a file that was written again.
_Stamp: TypeAlias = tuple[int, int]
Changed: TypeAlias = Callable[[], None]


@dataclass(slots=True)
class EnvoyFaults:
    """Faults of an Envoy; may be changed at any time."""

    #: Does not answer the router, and reads no file; serves as before.
    away: bool = False
    #: Accepts no file that changes; reads each again once it has been written again.
    refuses: bool = False
    #: Seconds until a changed file is in use.
    read_seconds: float = 0.0
    #: Seconds for which a draining endpoint has a request.
    request_seconds: float = 0.0


class HollowEnvoy:
    """Envoy of a machine, on the router's files in ``folder``; outlives the agents, as a real one does."""

    def __init__(self, folder: Path) -> None:
        self.faults = EnvoyFaults()
        self.running = False
        self._config = folder / CONFIG
        self._accepted: dict[str, bytes] = {}
        self._rejected: dict[str, _Stamp] = {}
        #: Changed files that are not in use yet, each with the time of the first look at it.
        self._seen: dict[str, tuple[_Stamp, float]] = {}
        self._draining: dict[tuple[str, str], float] = {}

    def start(self) -> None:
        """Run, on the files that are there."""
        self.running = True
        self.read()

    def stop(self) -> None:
        """End, as with the machine or by hand; nothing read is remembered."""
        self.running = False
        for known in (self._accepted, self._rejected, self._seen, self._draining):
            known.clear()

    def state(self) -> EnvoyState:
        """Return the configuration in use, after a look at the files.

        Raises:
            AdminUnavailable: by fault, or Envoy does not run.
        """
        if self.faults.away or not self.running:
            raise AdminUnavailable("the hollow Envoy does not answer")
        self.read()
        if LISTENERS not in self._accepted:
            return EnvoyState({}, {})
        versions = {statistic: known.version for statistic, known in expected_versions(self._accepted).items()}
        listeners = _resources(self._accepted[LISTENERS])
        ports = frozenset(int(one["address"]["socket_address"]["port_value"]) for one in listeners)
        clusters = {name: dict(self._hosts(name)) for name in self._clusters()}
        return EnvoyState(clusters, versions, ports)

    def read(self) -> None:
        """Look at the files, and use those that have changed."""
        if self.faults.away or not self.running:
            return
        now = time.monotonic()
        paths = {str(path.relative_to(self._config)): path for path in self._config.rglob("*.json")}
        for name, path in paths.items():
            # A file that is gone by now is one that the router removed.
            with suppress(FileNotFoundError):
                self._read(name, path, now)
        for name in self._accepted.keys() - paths.keys():
            del self._accepted[name]

    def in_use(self) -> frozenset[str]:
        """Return the ids of the containers that get new requests now."""
        return frozenset(
            container
            for cluster in (self._clusters() if self.running else ())
            for container in _healthy(self._endpoints(cluster))
        )

    def served(self) -> Mapping[str, Set[str]]:
        """Return the ids of the containers behind each host, over plain HTTP."""
        content = self._accepted.get(routes_path(HTTP))
        if content is None or not self.running:
            return {}
        return {host["name"]: self._behind(host["routes"]) for host in _resources(content)[0]["virtual_hosts"]}

    def _read(self, name: str, path: Path, now: float) -> None:
        status = path.stat()
        stamp = status.st_ino, status.st_mtime_ns
        if self._rejected.get(name) == stamp:
            return
        content = path.read_bytes()
        if self._accepted.get(name) == content:
            self._seen.pop(name, None)
            return
        if self.faults.refuses:
            self._rejected[name] = stamp
            return
        if self._seen.get(name, (None, 0.0))[0] != stamp:
            self._seen[name] = stamp, now
        if now - self._seen[name][1] >= self.faults.read_seconds:
            self._accepted[name] = content
            del self._seen[name]

    def _clusters(self) -> list[str]:
        return [str(cluster["name"]) for cluster in _resources(self._accepted.get(CLUSTERS, b'{"resources":[]}'))]

    def _endpoints(self, cluster: str) -> list[Mapping[str, Any]]:
        """Return the endpoints of this node in a cluster."""
        for name, content in self._accepted.items():
            if name.startswith("eds/") and (resource := _resources(content)[0])["cluster_name"] == cluster:
                return [*resource["endpoints"][0]["lb_endpoints"]]
        return []

    def _hosts(self, cluster: str) -> Iterator[tuple[str, UpstreamHost]]:
        now = time.monotonic()
        for endpoint in self._endpoints(cluster):
            address = endpoint["endpoint"]["address"]["socket_address"]
            host = f"{address['address']}:{address['port_value']}"
            draining = endpoint["health_status"] == "DRAINING"
            since = self._draining.setdefault((cluster, host), now) if draining else now
            busy = draining and now - since < self.faults.request_seconds
            yield host, UpstreamHost(draining, int(busy))

    def _behind(self, routes: list[Mapping[str, Any]]) -> set[str]:
        clusters = {route["route"]["cluster"] for route in routes if "route" in route}
        return {container for cluster in clusters for container in _healthy(self._endpoints(cluster))}


def _resources(content: bytes) -> list[Mapping[str, Any]]:
    return list(json.loads(content)["resources"])


def _healthy(endpoints: list[Mapping[str, Any]]) -> Iterator[str]:
    for endpoint in endpoints:
        if endpoint["health_status"] == "HEALTHY":
            yield str(endpoint["metadata"]["filter_metadata"][METADATA]["container"])


class HollowAdmin(AdminClient):
    """Admin client of a hollow Envoy."""

    def __init__(self, envoy: HollowEnvoy) -> None:
        super().__init__(Path())
        self._envoy = envoy

    async def read_state(self) -> EnvoyState:
        return self._envoy.state()

    async def is_listening(self) -> bool:
        return self._envoy.running

    async def rejected_config(self) -> str:
        return "the hollow Envoy refuses"


class HollowSupervisor(EnvoySupervisor):
    """Supervisor of a hollow Envoy: no containers, but the engine has to answer for a start or an end."""

    def __init__(
        self, machine: HollowMachine, envoy: HollowEnvoy, folder: EnvoyFolder, disk: ThreadPool, changed: Changed
    ) -> None:
        super().__init__(cast("DockerEngine", None), "", folder, disk, changed)
        self._machine = machine
        self._envoy = envoy

    @property
    def admins(self) -> list[AdminClient]:
        return [HollowAdmin(self._envoy)] if self.running else []

    async def last_log_line(self) -> str:
        return ""

    async def run(self) -> None:
        self._wake.set()
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not self._machine.away:
                self._converge_hollow()

    def _converge_hollow(self) -> None:
        if self._desired_known and (self._desired is not None) != self._envoy.running:
            (self._envoy.stop if self._desired is None else self._envoy.start)()
        before = self.observed, self.running
        self.observed, self.running = True, _HASH if self._envoy.running else ""
        if (self.observed, self.running) != before:
            self._changed()


class HollowRouter(Router):
    """The real router, on a hollow Envoy. Its ports are never taken: nobody listens."""

    def __init__(
        self,
        node: str,
        machine: HollowMachine,
        envoy: HollowEnvoy,
        folder: StateFolder,
        options: IngressOptions,
        peer_tls: PeerTls,
        disk: ThreadPool,
        events: EventBus,
    ) -> None:
        super().__init__(
            node,
            "",
            cast("DockerEngine", None),
            folder.files.root / "envoy",
            options,
            disk,
            lambda ref: events.environment_changed.emit(str(ref)),
            reachable=events.router_address_changed.emit,
            files=folder.files,
        )
        self._supervisor = HollowSupervisor(machine, envoy, self._folder, disk, self._wake_soon)
        self._ports = ListenerPorts(options, disk, check=lambda _port, _option: "")
        self.set_peer_tls(peer_tls)
        self._renderer = ConfigRenderer(FOLDER, available=lambda more: more)
        connect_router(self, events)
