"""The agent, put together: who is told of what, how it starts and how it ends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Final, Generic, TypeVar

import structlog

from devopsellence.api.v1 import stored_pb2
from devopsellence.nodeagent.api.images import ImageService
from devopsellence.nodeagent.api.server import ApiServer, ListenOptions
from devopsellence.nodeagent.assignments import Assignments
from devopsellence.nodeagent.docker import streams
from devopsellence.nodeagent.docker.engine import DockerEngine, EngineCallbacks
from devopsellence.nodeagent.docker.interface import ContainerEngine, Machine
from devopsellence.nodeagent.envoy.model import IngressOptions
from devopsellence.nodeagent.health.probe import probe_call
from devopsellence.nodeagent.identity import load_identity
from devopsellence.nodeagent.images.gc import ImageCollector
from devopsellence.nodeagent.images.peer_pull import PeerPuller
from devopsellence.nodeagent.images.staging import LayerStaging
from devopsellence.nodeagent.ingress.facade import IngressFacade
from devopsellence.nodeagent.ingress.node_ingress import NodeIngressMirror
from devopsellence.nodeagent.ingress.router import Router
from devopsellence.nodeagent.reconcile.loop import Reconciler, clock
from devopsellence.nodeagent.secrets import Vault
from devopsellence.nodeagent.state import StateFolder
from devopsellence.nodeagent.status.disk import DiskMonitor
from devopsellence.nodeagent.status.heartbeat import HeartbeatWriter
from devopsellence.nodeagent.status.writer import StatusWriter
from devopsellence.nodeagent.tls import Files
from devopsellence.nodeagent.util.memory import MemoryTrimmer
from devopsellence.nodeagent.util.threads import ThreadPool
from devopsellence.store.errors import StoreError
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef
from devopsellence.store.lease import LeaseKeeper
from devopsellence.store.settings import Settings

#: At a clean end, for the last statuses and the lease, when etcd does not answer.
GOODBYE_SECONDS: Final = 3.0
R = TypeVar("R", bound=ContainerEngine)
_log = structlog.get_logger()


@dataclass(frozen=True)
class Options:
    """What the agent is started with."""

    node: str
    node_uid: str
    state_dir: Path
    docker_host: str
    settings: Settings
    #: None: there is no API.
    listen: ListenOptions | None = None
    #: What other nodes' agents are shown; None: they are not asked for anything.
    files: Files | None = None
    ingress: IngressOptions = field(default_factory=IngressOptions)


@dataclass(frozen=True)
class Process:
    """What belongs to a process rather than to an agent, of which there may be several in one."""

    etcd: Etcd
    keeper: LeaseKeeper
    disk: ThreadPool
    rest: MemoryTrimmer


async def run(options: Options, folder: StateFolder, stop: asyncio.Event) -> None:
    """Run until ``stop`` is set: then no new action is begun, those in hand end, containers go on."""

    def docker(callbacks: EngineCallbacks) -> Machine[DockerEngine]:
        def connection() -> None:
            router.engine_connected()
            callbacks.connection()

        def of_router() -> None:
            router.container_changed()

        engine = DockerEngine(
            options.docker_host, options.node_uid, replace(callbacks, connection=connection, router=of_router)
        )
        fetcher = PeerPuller(engine, options.node_uid, options.files) if options.files is not None else None
        router = Router(
            options.node,
            options.node_uid,
            engine,
            options.state_dir / "envoy",
            options.ingress,
            threads,
            lambda env: callbacks.changed(str(env)),
            certificate=options.files,
            reachable=lambda address: agent.heartbeat.set_router_address(address),
        )
        return Machine(engine, partial(probe_call, engine), fetcher.fetch if fetcher is not None else None, router)

    async with Etcd(options.settings) as etcd, LeaseKeeper(etcd) as keeper:
        threads = ThreadPool(1, "disk")
        agent = Agent(options, folder, Process(etcd, keeper, threads, MemoryTrimmer()), docker)
        agent.watch(DiskMonitor(partial(agent.engine.ask, streams.data_root), threads, agent.heartbeat.set_disk))
        if options.listen is not None:
            images = ImageService(agent.engine, LayerStaging(options.state_dir / "staging"), agent.garbage)
            agent.serve(
                ApiServer(
                    options.listen,
                    options.state_dir,
                    agent.beat,
                    agent.engine,
                    agent.assignments,
                    agent.vault,
                    images,
                )
            )
        await agent.run(stop)


class Agent(Generic[R]):
    """One node's agent, on the machine that ``make`` makes. First :meth:`serve`, if at all, then :meth:`run`."""

    def __init__(
        self, options: Options, folder: StateFolder, process: Process, make: Callable[[EngineCallbacks], Machine[R]]
    ) -> None:
        etcd, disk = process.etcd, process.disk
        node, uid = options.node, options.node_uid
        identity = load_identity(options.state_dir)
        self.vault = Vault(identity)
        self._rest = process.rest
        machine = make(
            EngineCallbacks(
                changed=self._engine_changed, image=self._image_arrived, connection=self._connection_changed
            )
        )
        self.engine = machine.engine
        self._routes = machine.routes
        self._statuses = StatusWriter(etcd, etcd.keys, node, folder, disk)
        self.assignments = Assignments(etcd, etcd.keys, node, uid, folder, disk, self._assignment_changed)
        self.garbage = ImageCollector(self.engine, options.state_dir / "images.json", disk)
        self._parts = NodeIngressMirror(etcd, etcd.keys, node, uid, folder, disk, self.vault, self._parts_changed)
        ingress = IngressFacade(machine.routes, self._parts, clock)
        self._reconciler = Reconciler(
            node, uid, machine, self.assignments, self._statuses, folder, disk, self.vault, self.garbage, ingress
        )
        self.beat = _first_beat(node, uid, identity.recipient)
        self.heartbeat = HeartbeatWriter(etcd, etcd.keys, process.keeper, self.beat)
        self._foreign = ""
        self._api: ApiServer | None = None
        self._disk: DiskMonitor | None = None

    def serve(self, api: ApiServer) -> None:
        """Have operators answered, and say so."""
        self._api = api
        self.beat.api_address = api.address

    def watch(self, disk: DiskMonitor) -> None:
        """Have the heartbeat tell how much room there is."""
        self._disk = disk

    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop`` is set. Nothing of it goes on afterwards, nor when it is cancelled."""
        try:
            await self._run(stop)
        finally:
            self.garbage.close()
            self._reconciler.abandon()

    async def _run(self, stop: asyncio.Event) -> None:
        await self.assignments.load()
        await self.garbage.load()
        # Before the first plan: what is routed to must be known by then, and what is served with it.
        await self._parts.load()
        await self._routes.load()
        if self._api is not None:
            # Before the heartbeat tells of it, and also without etcd, from the assignments on disk.
            await self._api.start()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(each)
                for each in (
                    self.engine.run(),
                    self.assignments.run(),
                    self._statuses.run(),
                    self.heartbeat.run(),
                    self._parts.run(),
                    self._routes.run(),
                )
            ]
            if self._disk is not None:
                tasks.append(group.create_task(self._disk.run()))
            await self.assignments.first_list()
            converging = group.create_task(self._reconciler.run())
            self._rest.start()
            await stop.wait()
            _log.info("stopping")
            converging.cancel()
            if self._api is not None:
                await self._api.stop()
            await self._reconciler.close()
            for task in tasks:
                task.cancel()
        with suppress(TimeoutError, StoreError, ExceptionGroup):
            async with asyncio.timeout(GOODBYE_SECONDS):
                await self._statuses.flush()
                await self.heartbeat.close()

    def _assignment_changed(self, env: EnvironmentRef) -> None:
        self._reconciler.enqueue(env)
        self._say()

    def _parts_changed(self, env: EnvironmentRef) -> None:
        self._reconciler.enqueue(env)

    def _engine_changed(self, env: str) -> None:
        self._rest.touch()
        self._reconciler.changed(env)

    def _image_arrived(self) -> None:
        self._reconciler.image_arrived()

    def _connection_changed(self) -> None:
        self._say()
        if self.engine.connected:
            if self._disk is not None:
                self._disk.engine_connected()
            self._reconciler.everything()
            if self._api is not None:
                self._api.engine_connected()

    def _say(self) -> None:
        """Put into the heartbeat what keeps this agent from its work."""
        problem, foreign = self.engine.problem, self.assignments.foreign
        if foreign and foreign != self._foreign:
            _log.warning("this node's assignments are for another machine; what runs here goes on", uid=foreign)
        self._foreign = foreign
        if not problem and foreign:
            problem = f"this node's assignments are for the machine with uid {foreign}, which this one is not"
        self.heartbeat.update(problem=problem, docker_version=self.engine.version)


def _first_beat(node: str, node_uid: str, recipient: str) -> stored_pb2.Heartbeat:
    try:
        version = metadata.version("devopsellence")
    except metadata.PackageNotFoundError:
        version = "unknown"
    beat = stored_pb2.Heartbeat(
        node=node, uid=node_uid, agent_version=version, hostname=socket.gethostname(), age_recipient=recipient
    )
    beat.started_at.GetCurrentTime()
    return beat
