"""Controllers and agents in this process, each behind a relay to a real etcd, without Docker."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from bench.hollow.agent import HollowAgent, HollowIngress
from bench.hollow.envoy import HollowEnvoy
from bench.hollow.machine import HollowMachine
from devopsellence.controller.controller import Controller, serve
from devopsellence.nodeagent.docker.model import Container
from devopsellence.nodeagent.envoy.model import IngressOptions, PeerTls
from devopsellence.store.election import Election
from devopsellence.store.errors import StoreError
from devopsellence.store.etcd import Etcd
from devopsellence.store.lease import LeaseKeeper
from devopsellence.store.settings import Settings
from tests.integration.controller.audited import SigningEtcd
from tests.schedules.disk import NodeDisk
from tests.schedules.operator import answered
from tests.schedules.schedule import CONTROLLERS, Schedule
from tests.support.etcd import EtcdServer
from tests.support.relay import Relay
from tests.support.until import eventually

#: Short, and yet more than this process may be busy with the other schedules that it plays.
LEASE_SECONDS: Final = 2
#: A leader that cannot see makes way sooner than in earnest, because all of this takes seconds.
PATIENCE_SECONDS: Final = 1.0


_HTTP_PORT: Final = 8000
_PEER_PORT: Final = 7444


class WatchedMachine(HollowMachine):
    """Hollow machine that counts the starts of each release's task, and notes what an agent must never do.

    Such a misdeed is the stop of a container that works while ``envoy`` sends requests to it, and any change of a copy
    of a container.
    """

    def __init__(self, envoy: HollowEnvoy) -> None:
        super().__init__()
        self.tasks_started: Counter[int] = Counter()
        self.misdeeds: list[str] = []
        self._envoy = envoy
        self._copies: set[str] = set()

    @property
    def own(self) -> list[Container]:
        """All containers but the copies."""
        return [container for container in self.containers.values() if container.id not in self._copies]

    def commit(self, container: str) -> str:
        copy = super().commit(container)
        self._copies.add(copy)
        return copy

    def reboot(self) -> None:
        super().reboot()
        if self._envoy.running:
            # Docker starts it again.
            self._envoy.stop()
            self._envoy.start()

    def start(self, container: str) -> Container | None:
        before = self.containers.get(container)
        if before is not None and before.task and not before.up:
            self.tasks_started[before.release] += 1
        self._note_copy(container, "started")
        return super().start(container)

    def stop(self, container: str) -> None:
        existing = self.containers.get(container)
        if existing is not None and container in self._envoy.in_use() and not self.passes(container):
            self.misdeeds.append(
                f"{existing.service} of release {existing.release} ({container}) was stopped while it had requests"
            )
        self._note_copy(container, "stopped")
        super().stop(container)

    def update(self, container: str, body: Mapping[str, Any]) -> None:
        self._note_copy(container, "updated")
        super().update(container, body)

    def remove(self, container: str, *, force: bool = False, anonymous: bool = False) -> None:
        self._note_copy(container, "removed")
        super().remove(container, force=force, anonymous=anonymous)

    def _note_copy(self, container: str, what: str) -> None:
        if container in self._copies:
            self.misdeeds.append(f"{self.containers[container].name}, a copy of a container, was {what}")


class HollowNode:
    """Hollow machine with a disk, agent, Envoy, and the network between agent and etcd."""

    def __init__(self, name: str, folder: Path, relay: Relay, prefix: str) -> None:
        self.name = name
        self.uid = f"uid-{name}"
        self.relay = relay
        self.disk = NodeDisk(folder / name)
        self.envoy = HollowEnvoy(self.disk.state / "envoy")
        self.machine = WatchedMachine(self.envoy)
        settings = Settings((relay.endpoint,), prefix=prefix)
        options = IngressOptions(
            http_port=_HTTP_PORT, https_port=0, peer_port=_PEER_PORT, peer_address=f"{name}:{_PEER_PORT}"
        )
        ingress = HollowIngress(self.envoy, options, PeerTls("", "", ""))
        self.agent = HollowAgent(name, self.uid, self.disk.state, settings, machine=self.machine, ingress=ingress)


class ControllerActor:
    """Controller that can be killed and started again."""

    def __init__(self, identity: str, relay: Relay, prefix: str) -> None:
        self.relay = relay
        self._identity = identity
        self._settings = Settings((relay.endpoint,), prefix=prefix)
        self._stop = asyncio.Event()
        self._etcd: Etcd | None = None
        self._task: asyncio.Task[None] | None = None
        self._runs = 0

    def start(self) -> None:
        self._runs += 1
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(self._run(f"{self._identity}-{self._runs}"), name=self._identity)

    async def stop(self) -> None:
        """SIGTERM."""
        self._stop.set()
        if self._task is not None:
            await self._task

    async def kill(self) -> None:
        """Stop the controller as SIGKILL does: nothing more is sent, and the lease expires."""
        if self._task is None or self._etcd is None:
            return
        await self._etcd.__aexit__(None, None, None)
        self._task.cancel()
        with suppress(asyncio.CancelledError, StoreError):
            await self._task

    async def _run(self, identity: str) -> None:
        async with SigningEtcd(self._settings, identity, fenced=True) as etcd, LeaseKeeper(etcd) as keeper:
            self._etcd = etcd
            controller = Controller(etcd, patience=PATIENCE_SECONDS)
            await serve(controller, Election(etcd, keeper, identity, ttl=LEASE_SECONDS), self._stop)


class Cluster:
    """Cluster of a schedule; an async context manager. ``server`` may be shared; ``prefix`` may not."""

    def __init__(self, schedule: Schedule, server: EtcdServer, prefix: str, folder: Path) -> None:
        self.server = server
        self.etcd = Etcd(server.settings(prefix))
        self.nodes: dict[str, HollowNode] = {}
        self.controllers: dict[str, ControllerActor] = {}
        self._schedule = schedule
        self._prefix = prefix
        self._folder = folder
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self.etcd)
        for name in self._schedule.labels:
            node = self.nodes[name] = HollowNode(name, self._folder, await self._relay(), self._prefix)
            self._stack.callback(node.disk.discard)
        for number in range(CONTROLLERS):
            identity = f"c{number}"
            self.controllers[identity] = ControllerActor(identity, await self._relay(), self._prefix)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        ends = [node.agent.kill() for node in self.nodes.values()]
        try:
            await asyncio.gather(*ends, *(controller.kill() for controller in self.controllers.values()))
        finally:
            await self._stack.aclose()

    async def start(self) -> None:
        """Start all agents and controllers; return when all agents have a heartbeat, and so all their files."""
        for node in self.nodes.values():
            node.agent.start()
        for controller in self.controllers.values():
            controller.start()
        prefix = self.etcd.keys.heartbeats_prefix

        async def beating() -> bool:
            listing = await answered(lambda: self.etcd.list(prefix))
            return len(listing.items) == len(self.nodes)

        await eventually("all agents have started", beating)

    async def _relay(self) -> Relay:
        return await self._stack.enter_async_context(Relay(self.server.port))
