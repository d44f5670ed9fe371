"""Hollow engine: a machine in memory behind the connection logic of the real engine, without threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, TypeVar

from bench.hollow.machine import HollowMachine
from devopsellence.nodeagent.docker.cache import ContainerCache
from devopsellence.nodeagent.docker.engine import CALLS, PULLS, STOPS, EngineCallbacks
from devopsellence.nodeagent.docker.errors import ContainerHung, EngineError, EngineUnavailable, NotFound
from devopsellence.nodeagent.docker.hung import HungContainers
from devopsellence.nodeagent.docker.interface import DockerApi
from devopsellence.nodeagent.docker.ledger import ContainerLedger
from devopsellence.nodeagent.docker.model import Container, EngineEvent, EngineListing
from devopsellence.nodeagent.docker.ownership import foreign_container
from devopsellence.nodeagent.health.probe import ProbeCall
from devopsellence.nodeagent.plan.probe_spec import Probe
from devopsellence.nodeagent.reconcile.machine import Machine

T = TypeVar("T")

VERSION: Final = "hollow"
#: Far less than on a real engine, whose calls can be slow.
HUNG_SECONDS: Final = 0.2
_AWAY: Final = "the Docker Engine does not answer: it is not running"


class HollowEngine:
    """Container engine over a hollow machine; one agent at a time works on a machine.

    ``owned``: tells the agent's containers from copies; None: there are no copies, all are the agent's.
    """

    def __init__(
        self, machine: HollowMachine, callbacks: EngineCallbacks, owned: ContainerLedger | None = None
    ) -> None:
        self.cache = ContainerCache()
        self.owned = owned or ContainerLedger.in_memory()
        self._owns_all = owned is None
        self._pruned = self._owns_all
        self.connected = False
        self.problem = "not connected to the Docker Engine yet"
        self.version = ""
        self._machine = machine
        self._callbacks = callbacks
        self._calls = asyncio.Semaphore(CALLS)
        self._stops = asyncio.Semaphore(STOPS)
        self._pulls = asyncio.Semaphore(PULLS)
        self._hung = HungContainers(self._inspect, self._ping, self._hung_changed, HUNG_SECONDS)
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Connect and follow events, reconnecting until cancelled."""
        self._machine.told.add(self._on_event)
        try:
            while True:
                await self._machine.until_back()
                listing = self._set_foreign_apart(self._machine.list())
                self.cache.replace(listing, self.cache.stamp())
                for container in listing.containers:
                    self.cache.put(container)
                self.connected, self.problem, self.version = True, "", VERSION
                self._callbacks.connection()
                await self._machine.until_gone()
                self._hung.clear()
                self.connected, self.problem = False, _AWAY
                self._callbacks.connection()
        finally:
            self._hung.clear()
            self.connected = False
            self._machine.told.discard(self._on_event)

    @property
    def hung(self) -> Mapping[str, float]:
        return self._hung.since

    async def call(self, call: Callable[[DockerApi], T], *, about: str = "") -> T:
        async with self._calls:
            return await self._guarded(about, self._on(self._machine.faults.call_seconds, call, about))

    async def stop(self, call: Callable[[DockerApi], T], *, about: str = "") -> T:
        faults = self._machine.faults
        async with self._stops:
            return await self._guarded(about, self._on(faults.call_seconds + faults.stop_seconds, call, about))

    async def pull(self, call: Callable[[DockerApi], T]) -> T:
        faults = self._machine.faults
        async with self._pulls:
            return await self._on(faults.call_seconds + faults.pull_seconds, call)

    async def refresh(self, container: str) -> None:
        await self._guarded(container, self._inspect(container))

    async def _inspect(self, container: str) -> None:
        asked = self.cache.stamp()
        try:
            seen = await self._on(0.0, lambda machine: machine.inspect(container), container)
        except NotFound:
            self.cache.remove(container)
            return
        if seen is not None and self._admit([seen]):
            self.cache.put(_admitted(seen), asked)
        elif seen is not None:
            self.cache.put_foreign(foreign_container(seen))

    async def _refresh_changed(self, container: str, environment: str) -> None:
        with suppress(EngineError):
            await self.refresh(container)
        self._callbacks.changed(environment)

    async def _ping(self) -> None:
        if self._machine.away:
            raise EngineUnavailable(_AWAY)

    def _hung_changed(self, container: str) -> None:
        if container in self.cache.containers:
            self._callbacks.changed(self.cache.containers[container].environment)

    async def admit(self, container: Container) -> Container | None:
        """Return a container if it is this agent's, else None."""
        return _admitted(container) if self._admit([container]) else None

    def _admit(self, containers: Sequence[Container]) -> set[str]:
        """Return the ids of those of ``containers`` that are this agent's, by the rules of the real engine."""
        if self._owns_all:
            return {container.id for container in containers}
        unknown = [container for container in containers if not self.owned.knows(container.id)]
        labels = {container.image_id: self._machine.image_labels(container.image_id) for container in unknown}
        return self.owned.admit(containers, labels)

    def _set_foreign_apart(self, listing: EngineListing) -> EngineListing:
        own = self._admit(listing.containers)
        if not self._pruned:
            self._pruned = True
            existing = [container.id for container in listing.containers]
            self.owned.prune(existing, {container.name for container in listing.containers})
        return EngineListing(
            tuple(_admitted(container) for container in listing.containers if container.id in own),
            listing.networks,
            tuple(foreign_container(container) for container in listing.containers if container.id not in own),
        )

    async def relist(self) -> None:
        stamp = self.cache.stamp()
        listing = self._set_foreign_apart(self._machine.list())
        concerned, unknown = self.cache.replace(listing, stamp)
        for container in unknown:
            with suppress(ContainerHung):
                await self.refresh(container)
        for env in concerned:
            self._callbacks.changed(env)

    def question(self, _probe: Probe, container: str, _address: str) -> ProbeCall:
        async def ask() -> str:
            return self._machine.passes(container)

        return ask

    async def _guarded(self, container: str, call: Coroutine[Any, Any, T]) -> T:
        return await (self._hung.guard(container, call) if container else call)

    async def _on(self, seconds: float, call: Callable[[DockerApi], T], about: str = "") -> T:
        """Run a call with delay: a cut before the call prevents the call, a later cut only loses the answer."""
        await asyncio.sleep(seconds / 2)
        await self._machine.until_answers(about)
        if self._machine.away:
            raise EngineUnavailable(_AWAY)
        answer = call(self._machine)
        await asyncio.sleep(seconds / 2)
        if self._machine.away:
            raise EngineUnavailable(_AWAY)
        return answer

    def _on_event(self, event: EngineEvent) -> None:
        if self._machine.away:
            return
        if event.kind == "container" and event.action == "destroy":
            self.owned.gone(event.id)
        effect = self.cache.apply(event)
        if effect.inspect and effect.inspect in self._machine.containers:
            environment = self._machine.containers[effect.inspect].environment
            task = asyncio.create_task(self._refresh_changed(effect.inspect, environment))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if effect.environment:
            self._callbacks.changed(effect.environment)


def _admitted(container: Container) -> Container:
    """Return a container of this agent without the labels, as the real engine does."""
    return replace(container, labels={})


def hollow(
    machine: HollowMachine, callbacks: EngineCallbacks, owned: ContainerLedger | None = None
) -> Machine[HollowEngine]:
    """Return the engine for :class:`devopsellence.nodeagent.agent.Agent` on ``machine``; ``owned``: see
    :class:`HollowEngine`."""
    engine = HollowEngine(machine, callbacks, owned)
    return Machine(engine, engine.question)
