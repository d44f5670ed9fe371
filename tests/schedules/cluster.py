"""Controllers and agents in this process, each behind a relay to a real etcd, without Docker."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from bench.hollow.agent import HollowAgent
from bench.hollow.machine import HollowMachine
from devopsellence.controller.controller import Controller, serve
from devopsellence.nodeagent.docker.model import Container
from devopsellence.store.election import Election
from devopsellence.store.errors import StoreError
from devopsellence.store.etcd import Etcd
from devopsellence.store.lease import LeaseKeeper
from devopsellence.store.settings import Settings
from tests.integration.controller.audited import SigningEtcd
from tests.schedules.schedule import CONTROLLERS, Schedule
from tests.support.etcd import EtcdServer
from tests.support.relay import Relay

#: Short, and yet more than this process may be busy with the other schedules that it plays.
LEASE_SECONDS: Final = 2
#: A leader that cannot see makes way sooner than in earnest, because all of this takes seconds.
PATIENCE_SECONDS: Final = 1.0


class CountingMachine(HollowMachine):
    """Hollow machine that counts the starts of each release's task."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks_started: Counter[int] = Counter()

    def start(self, container: str) -> Container | None:
        before = self.containers.get(container)
        if before is not None and before.task and not before.up:
            self.tasks_started[before.release] += 1
        return super().start(container)


class HollowNode:
    """Hollow machine, agent, and the network between agent and etcd."""

    def __init__(self, name: str, folder: Path, relay: Relay, prefix: str) -> None:
        self.name = name
        self.uid = f"uid-{name}"
        self.relay = relay
        self.machine = CountingMachine()
        settings = Settings((relay.endpoint,), prefix=prefix)
        self.agent = HollowAgent(name, self.uid, folder / name, settings, machine=self.machine)


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
            self.nodes[name] = HollowNode(name, self._folder, await self._relay(), self._prefix)
        for number in range(CONTROLLERS):
            identity = f"c{number}"
            self.controllers[identity] = ControllerActor(identity, await self._relay(), self._prefix)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        ends = [node.agent.kill() for node in self.nodes.values()]
        await asyncio.gather(*ends, *(controller.kill() for controller in self.controllers.values()))
        await self._stack.aclose()

    def start(self) -> None:
        """Start all agents and controllers."""
        for node in self.nodes.values():
            node.agent.start()
        for controller in self.controllers.values():
            controller.start()

    async def _relay(self) -> Relay:
        return await self._stack.enter_async_context(Relay(self.server.port))
