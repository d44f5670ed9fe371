"""Async Docker Engine: calls on threads, events as callbacks, and a connection that is restored after a loss.

Without a connection ``connected`` is False and ``problem`` has the reason; the cache keeps the last known state until
the next full listing.
"""

from __future__ import annotations

import asyncio
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
from devopsellence.nodeagent.docker.errors import EngineError, EngineUnavailable, NotFound
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
#: Interval of full listings, for changes without an event.
RESYNC_SECONDS: Final = 60.0
#: A frozen engine keeps its connections open; only a ping detects it.
PING_SECONDS: Final = 15.0
PING_TIMEOUT: Final = 10.0
#: Limit for connecting, which lists and inspects everything.
CONNECT_TIMEOUT: Final = 20.0
#: An event caused by a call of the agent arrives before the answer to the call: wait this long for the answer.
EVENT_GRACE_SECONDS: Final = 0.25

_log = structlog.get_logger()


@dataclass(frozen=True)
class EngineCallbacks:
    """Callbacks of the engine, called on the event loop.

    ``changed(environment)``: reconcile an environment. ``image``: an image has arrived. ``connection``: ``connected``
    or ``problem`` has changed. ``router``: the router's container has changed.
    """

    changed: Callable[[str], None]
    image: Callable[[], None]
    connection: Callable[[], None]
    router: Callable[[], None] = lambda: None


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
        self._calls = ThreadPool(CALLS, "docker-call")
        self._stops = ThreadPool(STOPS, "docker-stop")
        self._pulls = ThreadPool(PULLS, "docker-pull")
        self._saves = ThreadPool(SAVES, "docker-save")
        self._checks = ThreadPool(CHECKS, "docker-check")
        self._asks = ThreadPool(ASKS, "docker-ask")
        #: Queries that must not wait behind calls: list, inspect, ping.
        self._queries = ThreadPool(4, "docker-query")
        self._pruned = False
        self._pending: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

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
                session[1].close()
                session[0].close()

    async def call(self, call: Callable[[DockerClient], T]) -> T:
        """Run a short call."""
        return await self._on(self._calls, call)

    async def stop(self, call: Callable[[DockerClient], T]) -> T:
        """Run a call that may take as long as a container's grace period."""
        return await self._on(self._stops, call)

    async def pull(self, call: Callable[[DockerClient], T]) -> T:
        """Run a call that may take minutes."""
        return await self._on(self._pulls, call)

    async def save(self, call: Callable[[DockerClient], T]) -> T:
        """Run a call that may take minutes on behalf of a peer, without waiting behind pulls."""
        return await self._on(self._saves, call)

    async def check(self, call: Callable[[DockerClient], T]) -> T:
        """Run a short call of a probe, without waiting behind anything but probes."""
        return await self._on(self._checks, call)

    async def ask(self, call: Callable[[DockerClient], T]) -> T:
        """Run a call on behalf of an operator, without waiting behind the agent's own calls or delaying them."""
        return await self._on(self._asks, call)

    async def refresh(self, container: str) -> None:
        """Inspect a container and update the cache."""
        try:
            current = await self._on(self._queries, lambda docker: docker.inspect(container))
        except NotFound:
            self.cache.remove(container)
            return
        if current is None:
            # Not labelled as this agent's: of interest only while it has a name of the agent's.
            self.cache.drop_foreign(container)
        elif await self._admit([current]):
            self.cache.put(_admitted(current))
        else:
            self.cache.put_foreign(foreign_container(current))

    async def admit(self, container: Container) -> Container | None:
        """Return a container if it is this agent's, else None. EngineUnavailable if that cannot be found out."""
        return _admitted(container) if await self._admit([container]) else None

    async def relist(self, *, fresh: bool = False) -> None:
        """List everything and update the cache; ``fresh``: inspect all running containers, not only unknown ones."""
        stamp = self.cache.stamp()
        listing = await self._set_foreign_apart(await self._on(self._queries, lambda docker: docker.list()))
        concerned, unknown = self.cache.replace(listing, stamp)
        await self._refresh_all(
            {container.id for container in listing.containers if container.up} if fresh else unknown
        )
        for environment in concerned:
            self._callbacks.changed(environment)

    async def _connect_in_time(self) -> tuple[DockerClient, EventStream]:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                return await self._connect()
        except TimeoutError as error:
            raise EngineUnavailable(
                f"the Docker Engine does not answer: nothing for {CONNECT_TIMEOUT:.0f} s"
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
            try:
                async with asyncio.timeout(PING_TIMEOUT):
                    await self._on(self._queries, lambda docker: docker.ping())
                    if loop.time() >= resync:
                        await self.relist()
                        resync = loop.time() + RESYNC_SECONDS
            except TimeoutError as error:
                raise EngineUnavailable(
                    f"the Docker Engine does not answer: nothing for {PING_TIMEOUT:.0f} s"
                ) from error

    async def _on(self, pool: ThreadPool, call: Callable[[DockerClient], T]) -> T:
        docker = self._docker
        if docker is None:
            raise EngineUnavailable(self.problem)
        try:
            return await pool.run(lambda: call(docker))
        except EngineUnavailable:
            if docker is self._docker:
                self._lost.set()
            raise

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

    async def _refresh_all(self, containers: Iterable[str]) -> None:
        await asyncio.gather(*(self.refresh(container) for container in containers))

    def _on_event(self, event: EngineEvent) -> None:
        if event.kind == "container" and event.action == "destroy":
            self.owned.gone(event.id)
        if event.attributes.get(names.LABEL_ROUTER):
            if event.attributes.get(names.LABEL_NODE_UID) == self._node_uid:
                self._callbacks.router()
            return
        effect = self.cache.apply(event)
        if effect.image:
            self._callbacks.image()
        if effect.inspect and effect.inspect not in self._pending:
            self._pending.add(effect.inspect)
            task = asyncio.create_task(self._inspect_after_event(effect.inspect, self.cache.stamp_of(effect.inspect)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if effect.environment:
            self._callbacks.changed(effect.environment)

    async def _inspect_after_event(self, container: str, stamp: int) -> None:
        """Inspect a container after an event, unless a call of the agent turns out to be the cause."""
        await asyncio.sleep(EVENT_GRACE_SECONDS)
        self._pending.discard(container)
        if self.cache.stamp_of(container) != stamp:
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
