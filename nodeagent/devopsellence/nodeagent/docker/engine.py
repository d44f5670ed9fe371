"""Async Docker Engine: calls on threads, events as callbacks, and a connection that is restored after a loss.

Without a connection ``connected`` is False and ``problem`` has the reason; the cache keeps the last known state until
the next full listing.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, TypeVar

import structlog
from tenacity import AsyncRetrying, retry_if_exception_type, wait_exponential, wait_random

from devopsellence.nodeagent.docker import names
from devopsellence.nodeagent.docker.cache import ContainerCache
from devopsellence.nodeagent.docker.client import DockerClient, EventStream
from devopsellence.nodeagent.docker.errors import EngineError, EngineUnavailable, NotFound, TimedOut
from devopsellence.nodeagent.docker.hung import HUNG_SECONDS, HungContainers
from devopsellence.nodeagent.docker.ledger import ContainerLedger
from devopsellence.nodeagent.docker.model import Container, EngineEvent, EngineListing
from devopsellence.nodeagent.docker.ownership import foreign_container
from devopsellence.nodeagent.util.threads import ThreadPool

T = TypeVar("T")

#: Containers created, started or removed at the same time.
CALLS: Final = 6
#: Containers stopping at the same time; a stop may take the whole grace period.
STOPS: Final = 16
PULLS: Final = 2
#: Images sent to peers at the same time.
SAVES: Final = 2
#: Calls for exec probes at the same time.
CHECKS: Final = 4
#: Calls on behalf of operators at the same time.
ASKS: Final = 8
#: Inspections of hung containers at the same time; each waits until the engine answers.
HUNG: Final = 16
#: Interval of full listings, for changes without an event.
RESYNC_SECONDS: Final = 60.0
#: A frozen engine keeps its connections open; only a ping detects it.
PING_SECONDS: Final = 15.0
PING_TIMEOUT: Final = 10.0
#: Limit for connecting, which lists everything.
CONNECT_TIMEOUT: Final = 20.0
#: Longest wait for the inspections of all running containers on connecting; those without an answer count as hung until
#: it comes.
FRESH_SECONDS: Final = 5.0
#: An event caused by a call of the agent arrives before the answer to the call: wait this long for the answer.
EVENT_GRACE_SECONDS: Final = 0.25

_log = structlog.get_logger()


@dataclass(frozen=True)
class EngineCallbacks:
    """Callbacks of the engine, called on the event loop.

    ``changed(environment)``: reconcile an environment. ``image``: an image has arrived. ``connection``: ``connected``
    or ``problem`` has changed. ``router``: the router's container has changed. ``networks``: any network, not only of
    this agent, was created or removed.
    """

    changed: Callable[[str], None]
    image: Callable[[], None]
    connection: Callable[[], None]
    router: Callable[[], None] = lambda: None
    networks: Callable[[], None] = lambda: None


class DockerEngine:
    """A Docker Engine with its connection, thread pools and container cache. ``run`` keeps the connection up until
    cancelled."""

    def __init__(
        self, host: str, node_uid: str, callbacks: EngineCallbacks, owned: ContainerLedger | None = None
    ) -> None:
        self.cache = ContainerCache()
        #: Containers of this agent; without a ledger on disk, those of a former agent are adopted.
        self.owned = owned or ContainerLedger.in_memory()
        self.connected = False
        self.problem = "not connected to the Docker Engine yet"
        self.version = ""
        self._host = host
        self._node_uid = node_uid
        self._callbacks = callbacks
        self._docker: DockerClient | None = None
        self._lost = asyncio.Event()
        # A call about a hung container must not keep calls about others waiting.
        self._calls = ThreadPool(CALLS, "docker-call", HUNG_SECONDS)
        self._stops = ThreadPool(STOPS, "docker-stop", math.inf)
        self._pulls = ThreadPool(PULLS, "docker-pull")
        self._saves = ThreadPool(SAVES, "docker-save")
        self._checks = ThreadPool(CHECKS, "docker-check", HUNG_SECONDS)
        self._asks = ThreadPool(ASKS, "docker-ask", HUNG_SECONDS)
        #: Queries that must not wait behind calls: list, inspect, ping.
        self._queries = ThreadPool(4, "docker-query", HUNG_SECONDS)
        self._patient = ThreadPool(HUNG, "docker-hung")
        self._hung = HungContainers(self._inspect_patiently, self._ping_in_time, self._hung_changed)
        self._pruned = False
        #: Containers to inspect soon, with their stamps at the last event about them.
        self._pending: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def hung(self) -> Mapping[str, float]:
        return self._hung.since

    async def run(self) -> None:
        """Connect, follow events, reconnect after a loss; until cancelled."""
        while True:
            retrying = AsyncRetrying(
                retry=retry_if_exception_type(EngineError),
                wait=wait_exponential(multiplier=0.1, max=2.0) + wait_random(0, 0.1),
                before_sleep=lambda state: self._disconnected(state.outcome.exception() if state.outcome else None),
            )
            session: tuple[DockerClient, EventStream] = await retrying(self._connect_in_time)
            try:
                await self._follow()
            except EngineError as error:
                self._disconnected(error)
            else:
                self._disconnected(EngineUnavailable("the Docker Engine does not answer: it has closed the connection"))
            finally:
                self.connected = False
                self._hung.clear()
                session[1].close()
                session[0].close()

    async def call(self, call: Callable[[DockerClient], T], *, about: str = "") -> T:
        """Run a short call."""
        return await self._on(self._calls, call, about)

    async def stop(self, call: Callable[[DockerClient], T], *, about: str = "") -> T:
        """Run a call that may take as long as a container's grace period."""
        return await self._on(self._stops, call, about)

    async def pull(self, call: Callable[[DockerClient], T]) -> T:
        """Run a call that may take minutes."""
        return await self._on(self._pulls, call)

    async def save(self, call: Callable[[DockerClient], T]) -> T:
        """Run a call that may take minutes on behalf of a peer, without waiting behind pulls."""
        return await self._on(self._saves, call)

    async def check(self, call: Callable[[DockerClient], T], *, about: str = "") -> T:
        """Run a short call of a probe, without waiting behind anything but probes."""
        return await self._on(self._checks, call, about)

    async def ask(self, call: Callable[[DockerClient], T], *, about: str = "") -> T:
        """Run a call on behalf of an operator, without waiting behind the agent's own calls or delaying them."""
        return await self._on(self._asks, call, about)

    async def refresh(self, container: str) -> None:
        """Inspect a container and update the cache. ContainerHung if the engine does not answer about it."""
        await self._inspect(self._queries, container, about=container)

    async def admit(self, container: Container) -> Container | None:
        """Return a container if it is this agent's, else None. EngineUnavailable if that cannot be found out."""
        return _admitted(container) if await self._admit([container]) else None

    async def relist(self, *, fresh: bool = False) -> None:
        """List everything and update the cache; ``fresh``: inspect all running containers, not only unknown ones.

        A container about which the engine does not answer is known from the list alone.
        """
        concerned, inspected = await self._list(fresh=fresh)
        await self._refresh_all(inspected, FRESH_SECONDS if fresh else None)
        for environment in concerned:
            self._callbacks.changed(environment)

    async def _list(self, *, fresh: bool = False) -> tuple[set[str], list[Container]]:
        """List everything; return the environments concerned, and the containers to inspect."""
        stamp = self.cache.stamp()
        listing = await self._set_foreign_apart(await self._on(self._queries, lambda docker: docker.list()))
        concerned, unknown = self.cache.replace(listing, stamp)
        return concerned, [
            container for container in listing.containers if container.up and (fresh or container.id in unknown)
        ]

    async def _connect_in_time(self) -> tuple[DockerClient, EventStream]:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT + FRESH_SECONDS):
                return await self._connect()
        except TimeoutError as error:
            raise EngineUnavailable(
                f"the Docker Engine does not answer: nothing for {CONNECT_TIMEOUT + FRESH_SECONDS:.0f} s"
            ) from error

    async def _connect(self) -> tuple[DockerClient, EventStream]:
        docker = await self._queries.run(lambda: DockerClient(self._host, self._node_uid))
        self._lost = asyncio.Event()
        self._docker = docker
        # Subscribe before listing: changes in between are seen twice rather than never.
        stream = await self._queries.run(docker.events)
        loop, lost = asyncio.get_running_loop(), self._lost
        threading.Thread(
            target=_read, args=(stream, loop, self._on_event, lost), name="docker-events", daemon=True
        ).start()
        try:
            self.version = await self._queries.run(docker.version)
            await self.relist(fresh=True)
        except BaseException:
            stream.close()
            docker.close()
            raise
        self.connected, self.problem = True, ""
        _log.info("connected to the Docker Engine", host=self._host, version=self.version)
        self._callbacks.connection()
        return docker, stream

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        resync = loop.time() + RESYNC_SECONDS
        while not self._lost.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._lost.wait(), PING_SECONDS)
                return
            concerned: set[str] = set()
            inspected: list[Container] = []
            try:
                async with asyncio.timeout(PING_TIMEOUT):
                    await self._on(self._queries, lambda docker: docker.ping())
                    if loop.time() >= resync:
                        concerned, inspected = await self._list()
                        resync = loop.time() + RESYNC_SECONDS
            except TimeoutError as error:
                raise EngineUnavailable(
                    f"the Docker Engine does not answer: nothing for {PING_TIMEOUT:.0f} s"
                ) from error
            await self._refresh_all(inspected)
            for environment in concerned:
                self._callbacks.changed(environment)

    async def _on(self, pool: ThreadPool, call: Callable[[DockerClient], T], about: str = "") -> T:
        """Run a call on a thread of ``pool``. Only an engine that does not answer at all counts as lost."""
        docker = self._docker
        if docker is None:
            raise EngineUnavailable(self.problem)
        try:
            running = pool.run(lambda: call(docker))
            return await (self._hung.guard(about, running) if about else running)
        except EngineUnavailable:
            if docker is self._docker:
                self._lost.set()
            raise
        except TimedOut as error:
            if docker is not self._docker or not self.connected:
                raise EngineUnavailable(str(error)) from error
            raise

    async def _inspect(self, pool: ThreadPool, container: str, *, about: str) -> None:
        asked = self.cache.stamp()
        try:
            current = await self._on(pool, lambda docker: docker.inspect(container), about)
        except NotFound:
            self.cache.remove(container)
            return
        if current is None:
            # Not labelled as this agent's: of interest only while it has a name of the agent's.
            self.cache.drop_foreign(container)
        elif await self._admit([current]):
            self.cache.put(_admitted(current), asked)
        else:
            self.cache.put_foreign(foreign_container(current))

    async def _inspect_patiently(self, container: str) -> None:
        await self._inspect(self._patient, container, about="")

    async def _ping_in_time(self) -> None:
        """Return if the engine answers; EngineUnavailable otherwise, and the connection counts as lost."""
        try:
            async with asyncio.timeout(PING_TIMEOUT):
                await self._on(self._queries, lambda docker: docker.ping())
        except (TimeoutError, TimedOut) as error:
            self._lost.set()
            raise EngineUnavailable("the Docker Engine does not answer") from error

    def _hung_changed(self, container: str) -> None:
        known = self.cache.containers.get(container) or self.cache.foreign.get(container)
        name = known.name if known is not None else container
        if container in self._hung.since:
            _log.warning("the engine does not answer about a container, which is left alone until it does", name=name)
        else:
            _log.info("the engine answers about a container again", name=name)
        if known is not None and known.environment:
            self._callbacks.changed(known.environment)

    async def _set_foreign_apart(self, listing: EngineListing) -> EngineListing:
        own = await self._admit(listing.containers)
        labelled = {container.id for container in listing.containers}
        takers = {identity: known for identity, known in self.cache.foreign.items() if identity not in labelled}
        missing = (self.owned.ids | takers.keys()) - labelled
        existing = await self._on(self._queries, lambda docker: docker.existing(missing))
        # At the start only: later, containers may be created between the listing and here.
        if not self._pruned:
            self._pruned = True
            self.owned.prune(labelled | existing, {container.name for container in listing.containers})
        foreign = [foreign_container(container) for container in listing.containers if container.id not in own]
        return EngineListing(
            tuple(_admitted(container) for container in listing.containers if container.id in own),
            listing.networks,
            (*foreign, *(known for identity, known in takers.items() if identity in existing)),
        )

    async def _admit(self, containers: Sequence[Container]) -> set[str]:
        """Return the ids of those of ``containers`` that are this agent's."""
        unknown = [container for container in containers if not self.owned.knows(container.id)]
        labels: dict[str, Mapping[str, str]] = {}
        for image in {container.image_id for container in unknown if container.labels}:
            try:
                labels[image] = await self._on(self._queries, partial(_image_labels, image=image))
            except EngineUnavailable:
                raise
            except EngineError as error:
                # Such as an image removed by force: that proves nothing.
                _log.warning("cannot read the labels of an image", image=image, error=str(error))
        admitted = self.owned.admit(containers, labels)
        for container in unknown:
            if container.id not in admitted and container.id not in self.cache.foreign:
                _log.warning("a container with this agent's labels is not its own", name=container.name)
        return admitted

    async def _refresh_all(self, listed: Iterable[Container], seconds: float | None = None) -> None:
        """Inspect containers of a listing; those without an answer within ``seconds`` are stored as listed."""
        refreshing = {asyncio.create_task(self.refresh(container.id)): container for container in listed}
        if not refreshing:
            return
        try:
            await asyncio.wait(refreshing, timeout=seconds)
            for task, container in refreshing.items():
                if not task.done():
                    self._hung.suspect(container.id)
                elif (error := task.exception()) is None:
                    continue
                elif isinstance(error, EngineUnavailable) or not isinstance(error, EngineError):
                    raise error
                else:
                    _log.warning("cannot inspect a container", name=container.name, error=str(error))
                known = self.cache.containers.get(container.id)
                if known is None or known.up != container.up:
                    self.cache.put(container)
        finally:
            for task in refreshing:
                task.cancel()

    def _on_event(self, event: EngineEvent) -> None:
        if event.kind == "container" and event.action == "destroy":
            self.owned.gone(event.id)
        if event.attributes.get(names.LABEL_ROUTER):
            if event.attributes.get(names.LABEL_NODE_UID) == self._node_uid:
                self._callbacks.router()
            return
        if event.kind == "network" and event.action in ("create", "destroy"):
            self._callbacks.networks()
        effect = self.cache.apply(event)
        if effect.image:
            self._callbacks.image()
        if effect.inspect:
            if effect.inspect not in self._pending:
                task = asyncio.create_task(self._inspect_after_event(effect.inspect))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            self._pending[effect.inspect] = self.cache.stamp_of(effect.inspect)
        if effect.environment:
            self._callbacks.changed(effect.environment)

    async def _inspect_after_event(self, container: str) -> None:
        """Inspect a container after an event, unless a call of the agent turns out to be the cause.

        A call that was answered before the last event cannot be.
        """
        await asyncio.sleep(EVENT_GRACE_SECONDS)
        if self.cache.stamp_of(container) != self._pending.pop(container):
            return
        before = self.cache.containers.get(container) or self.cache.foreign.get(container)
        try:
            await self.refresh(container)
        except EngineError as error:
            _log.warning("cannot inspect a container", container=container, error=str(error))
        current = self.cache.containers.get(container) or self.cache.foreign.get(container) or before
        if current is not None and current.environment:
            self._callbacks.changed(current.environment)

    def _disconnected(self, error: BaseException | None) -> None:
        problem = str(error)
        self.connected = False
        if problem != self.problem:
            _log.warning("the Docker Engine is not available", problem=problem)
            self.problem = problem
        self._callbacks.connection()


def _admitted(container: Container) -> Container:
    """Return a container of this agent without the labels, which are needed no more."""
    return replace(container, labels={})


def _image_labels(docker: DockerClient, image: str) -> Mapping[str, str]:
    return docker.images.labels(image)


def _read(
    stream: EventStream, loop: asyncio.AbstractEventLoop, on_event: Callable[[EngineEvent], None], lost: asyncio.Event
) -> None:
    # RuntimeError: the event loop is closed.
    with suppress(RuntimeError):
        for event in stream:
            loop.call_soon_threadsafe(on_event, event)
        loop.call_soon_threadsafe(lost.set)
