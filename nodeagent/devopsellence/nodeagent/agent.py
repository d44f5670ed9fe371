"""The agent of one node: builds its components, starts and stops them, reports what keeps it from working."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Final, Generic, TypeVar

import structlog

from devopsellence import clock
from devopsellence.api.v1 import stored_pb2
from devopsellence.nodeagent.access import AccessMirror
from devopsellence.nodeagent.api.images import ImageService
from devopsellence.nodeagent.api.server import ApiServer, ListenOptions
from devopsellence.nodeagent.assignments import Assignments
from devopsellence.nodeagent.audit.reporter import AuditReporter
from devopsellence.nodeagent.certificates.machine import MachineCertificate
from devopsellence.nodeagent.certificates.router import RouterCertificate
from devopsellence.nodeagent.docker import streams
from devopsellence.nodeagent.docker.engine import DockerEngine
from devopsellence.nodeagent.docker.interface import ContainerEngine
from devopsellence.nodeagent.docker.ledger import ContainerLedger
from devopsellence.nodeagent.envoy.model import IngressOptions
from devopsellence.nodeagent.event_bus import EventBus
from devopsellence.nodeagent.health.probe import probe_call
from devopsellence.nodeagent.identity import load_identity
from devopsellence.nodeagent.images.gc import ImageCollector
from devopsellence.nodeagent.images.peer_pull import PeerPuller
from devopsellence.nodeagent.images.staging import LayerStaging
from devopsellence.nodeagent.ingress.facade import IngressFacade
from devopsellence.nodeagent.ingress.node_ingress import NodeIngressMirror
from devopsellence.nodeagent.ingress.router import Router
from devopsellence.nodeagent.instance import new_process
from devopsellence.nodeagent.mirror import NodeContext
from devopsellence.nodeagent.reconcile.loop import Reconciler
from devopsellence.nodeagent.reconcile.machine import Machine
from devopsellence.nodeagent.secrets import SecretDecrypter
from devopsellence.nodeagent.state import StateFolder
from devopsellence.nodeagent.state_files import StateFiles
from devopsellence.nodeagent.state_keeper import StateKeeper
from devopsellence.nodeagent.status.disk import DiskMonitor
from devopsellence.nodeagent.status.heartbeat import HeartbeatWriter
from devopsellence.nodeagent.status.networks import NetworkMonitor
from devopsellence.nodeagent.status.writer import StatusWriter
from devopsellence.nodeagent.util.memory import MemoryTrimmer
from devopsellence.nodeagent.util.threads import ThreadPool
from devopsellence.server_certificate import CertificateFiles
from devopsellence.store.errors import StoreError
from devopsellence.store.etcd import Etcd
from devopsellence.store.lease import LeaseKeeper
from devopsellence.store.settings import Settings

#: Time at a clean end for the last statuses and the lease, if etcd does not answer.
GOODBYE_SECONDS: Final = 3.0
R = TypeVar("R", bound=ContainerEngine)
_log = structlog.get_logger()


@dataclass(frozen=True)
class AgentOptions:
    """Options of the agent, from its command line."""

    node: str
    node_uid: str
    state_dir: Path
    docker_host: str
    settings: Settings
    #: None: no API.
    listen: ListenOptions | None = None
    #: Certificate of this machine, for calls to the agents of other nodes, kept renewed; None: no such calls.
    files: CertificateFiles | None = None
    ingress: IngressOptions = field(default_factory=IngressOptions)


@dataclass(frozen=True)
class ProcessResources:
    """Resources of the process, shared by all agents in it (the hollow fleet runs many)."""

    etcd: Etcd
    keeper: LeaseKeeper
    disk: ThreadPool
    trimmer: MemoryTrimmer


async def run(options: AgentOptions, folder: StateFolder, stop: asyncio.Event) -> None:
    """Run an agent on the Docker Engine until ``stop`` is set.

    Then no new action starts, calls in progress end, and containers keep running.
    """
    async with Etcd(options.settings, joins_lists=True) as etcd, LeaseKeeper(etcd) as keeper:
        disk = ThreadPool(1, "disk")
        events = EventBus()
        machine = _docker_machine(options, disk, events, folder.files)
        agent = Agent(options, folder, ProcessResources(etcd, keeper, disk, MemoryTrimmer()), machine, events)
        agent.monitor_disk(DiskMonitor(partial(agent.engine.ask, streams.data_root), disk, agent.heartbeat.set_disk))
        count = partial(agent.engine.ask, streams.networks_left)
        agent.monitor_networks(NetworkMonitor(count, agent.heartbeat.set_networks_left))
        if options.listen is not None:
            images = ImageService(agent.engine, LayerStaging(options.state_dir / "staging"), agent.images)
            agent.serve(
                ApiServer(
                    options.listen,
                    options.state_dir,
                    agent.beat,
                    agent.engine,
                    agent.assignments,
                    agent.decrypter,
                    images,
                    agent.access,
                    agent.audit,
                )
            )
        await agent.run(stop)


def _docker_machine(
    options: AgentOptions, disk: ThreadPool, events: EventBus, files: StateFiles
) -> Machine[DockerEngine]:
    """Build the Docker Engine and the router. The router is the first subscriber to signals of the engine."""
    owned = ContainerLedger(options.state_dir / "containers.json", disk, files)
    engine = DockerEngine(options.docker_host, options.node_uid, events.engine_callbacks(), owned)
    router = Router(
        options.node,
        options.node_uid,
        engine,
        options.state_dir / "envoy",
        options.ingress,
        disk,
        lambda ref: events.environment_changed.emit(str(ref)),
        reachable=events.router_address_changed.emit,
        peer_tls_used=events.peer_tls_used.emit,
        files=files,
    )
    connect_router(router, events)
    puller = PeerPuller(engine, options.node_uid, options.files) if options.files is not None else None
    return Machine(engine, partial(probe_call, engine), puller.fetch if puller is not None else None, router)


def connect_router(router: Router, events: EventBus) -> None:
    """Let a router know of the events of its agent that concern it."""
    events.assignments_listed.subscribe(router.assignments_listed)
    events.folder_problem_changed.subscribe(lambda _problem: router.folder_changed())
    events.files_restored.subscribe(lambda _paths: router.folder_changed())
    events.connection_changed.subscribe(router.engine_connected)
    events.router_container_changed.subscribe(router.container_changed)
    events.peer_tls_changed.subscribe(router.set_peer_tls)


class Agent(Generic[R]):
    """The agent of one node on one machine.

    ``events`` is the bus of ``machine``. Call :meth:`serve`, :meth:`monitor_disk` and :meth:`monitor_networks`, all
    optional, before :meth:`run`.
    """

    def __init__(
        self,
        options: AgentOptions,
        folder: StateFolder,
        resources: ProcessResources,
        machine: Machine[R],
        events: EventBus,
    ) -> None:
        etcd, disk = resources.etcd, resources.disk
        context = NodeContext(etcd, options.node, options.node_uid, folder, disk)
        identity = load_identity(options.state_dir, folder.files)
        self.engine = machine.engine
        self.decrypter = SecretDecrypter(identity)
        process = new_process(folder.files)
        self.beat = _first_beat(options.node, options.node_uid, identity.recipient, process.instance)
        self._statuses = StatusWriter(etcd, etcd.keys, options.node, folder, disk)
        # Until the heartbeat says that no other agent of this uid reports.
        self._statuses.set_reporting(False)
        self.heartbeat = HeartbeatWriter(etcd, etcd.keys, resources.keeper, self.beat, process, self._set_ownership)
        self.access = AccessMirror(context, options.settings)
        self.audit = AuditReporter(context)
        self.assignments = Assignments(context, events.assignment_changed.emit, events.assignments_listed.emit)
        self.images = ImageCollector(self.engine, options.state_dir / "images.json", disk, files=folder.files)
        self._state_keeper = StateKeeper(
            folder.files, disk, events.folder_problem_changed.emit, events.files_restored.emit
        )
        self._router = machine.router
        self._node_ingress = NodeIngressMirror(context, self.decrypter, events.node_ingress_changed.emit)
        ingress = IngressFacade(machine.router, self._node_ingress, clock.now)
        self._reconciler = Reconciler(
            context, machine, self.assignments, self._statuses, self.decrypter, self.images, ingress
        )
        self._trimmer = resources.trimmer
        self._router_certificate: RouterCertificate | None = None
        self._certificate: MachineCertificate | None = None
        if options.files is not None:
            if options.ingress.peer_port:
                self._router_certificate = RouterCertificate(
                    etcd,
                    options.node_uid,
                    options.files,
                    options.state_dir / "router",
                    events.peer_tls_changed.emit,
                    self.heartbeat.set_router_tls,
                )
                events.peer_tls_used.subscribe(self._router_certificate.tls_used)
            self._certificate = MachineCertificate(
                etcd, options.files, self.heartbeat.set_certificate, self._router_certificate
            )
        self._foreign_uid = ""
        self._api: ApiServer | None = None
        self._disk: DiskMonitor | None = None
        self._networks: NetworkMonitor | None = None
        self._subscribe(events)

    def _set_ownership(self, owned: bool) -> None:
        """Act and report, unless another agent with the same uid does."""
        self._reconciler.set_acting(owned)
        self._statuses.set_reporting(owned)

    def _subscribe(self, events: EventBus) -> None:
        events.environment_changed.subscribe(lambda _path: self._trimmer.touch())
        events.environment_changed.subscribe(self._reconciler.changed)
        events.image_arrived.subscribe(self._reconciler.image_arrived)
        events.connection_changed.subscribe(self._connection_changed)
        events.networks_changed.subscribe(self._networks_changed)
        events.router_address_changed.subscribe(self.heartbeat.set_router_address)
        events.assignment_changed.subscribe(self._reconciler.enqueue)
        events.assignment_changed.subscribe(lambda _ref: self._report_problem())
        events.node_ingress_changed.subscribe(self._reconciler.enqueue)
        events.folder_problem_changed.subscribe(self.heartbeat.set_folder_problem)
        events.folder_problem_changed.subscribe(self.assignments.folder_problem_changed)
        # The statuses tell of the problem.
        events.folder_problem_changed.subscribe(lambda _problem: self._reconciler.everything())

    def serve(self, api: ApiServer) -> None:
        """Start ``api`` with the agent, and put its address into the heartbeat."""
        self._api = api
        self.access.subscribe(api.rights.changed)
        self.beat.api_address = api.address

    def monitor_disk(self, disk: DiskMonitor) -> None:
        """Run ``disk`` with the agent, to report free disk space in the heartbeat."""
        self._disk = disk

    def monitor_networks(self, networks: NetworkMonitor) -> None:
        """Run ``networks`` with the agent, to report in the heartbeat how many networks can still be created."""
        self._networks = networks

    async def run(self, stop: asyncio.Event) -> None:
        """Run until ``stop`` is set or until cancelled. Nothing of the agent goes on afterwards."""
        try:
            await self._run(stop)
        finally:
            self.images.close()
            self._reconciler.abandon()

    async def _run(self, stop: asyncio.Event) -> None:
        # First: the addresses on disk are those of the first connection.
        await self.access.load()
        await self.audit.load()
        await self.assignments.load()
        await self.images.load()
        await self.engine.owned.load()
        # Before the first plan: a plan needs the containers that get requests now, and the certificates in use.
        await self._node_ingress.load()
        if self._router_certificate is not None:
            await self._router_certificate.load()
        await self._router.load()
        if self._api is not None:
            # Before the heartbeat has its address, and also without etcd, from the assignments on disk.
            await self._api.start()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(work)
                for work in (
                    self.engine.run(),
                    self.access.run(),
                    self.audit.run(),
                    self.assignments.run(),
                    self._statuses.run(),
                    self.heartbeat.run(),
                    self._node_ingress.run(),
                    self._router.run(),
                    self._state_keeper.run(),
                )
            ]
            if self._disk is not None:
                tasks.append(group.create_task(self._disk.run()))
            if self._networks is not None:
                tasks.append(group.create_task(self._networks.run()))
            if self._certificate is not None:
                tasks.append(group.create_task(self._certificate.run()))
            await self.assignments.first_list()
            reconciling = group.create_task(self._reconciler.run())
            self._trimmer.start()
            await stop.wait()
            _log.info("stopping")
            reconciling.cancel()
            if self._api is not None:
                await self._api.stop()
            await self._reconciler.close()
            for task in tasks:
                task.cancel()
        with suppress(TimeoutError, StoreError, ExceptionGroup):
            async with asyncio.timeout(GOODBYE_SECONDS):
                await self.engine.owned.flush()
                await self.access.flush()
                await self.audit.flush()
                await self._statuses.flush()
                await self.heartbeat.close()

    def _connection_changed(self) -> None:
        self._report_problem()
        if self.engine.connected:
            if self._disk is not None:
                self._disk.engine_connected()
            if self._networks is not None:
                self._networks.changed()
            self._reconciler.everything()
            if self._api is not None:
                self._api.engine_connected()

    def _networks_changed(self) -> None:
        self._reconciler.networks_changed()
        if self._networks is not None:
            self._networks.changed()

    def _report_problem(self) -> None:
        """Put the reason why this agent cannot work into the heartbeat; empty if it can."""
        problem, foreign_uid = self.engine.problem, self.assignments.foreign_uid
        if foreign_uid and foreign_uid != self._foreign_uid:
            _log.warning(
                "this node's assignments are for another machine; containers here keep running", uid=foreign_uid
            )
        self._foreign_uid = foreign_uid
        if not problem and foreign_uid:
            problem = f"this node's assignments are for the machine with uid {foreign_uid}, which this one is not"
        without_engine = not self.engine.connected
        self.heartbeat.update(problem=problem, docker_version=self.engine.version, without_engine=without_engine)


def _first_beat(node: str, node_uid: str, recipient: str, instance: str) -> stored_pb2.Heartbeat:
    try:
        version = metadata.version("devopsellence")
    except metadata.PackageNotFoundError:
        version = "unknown"
    beat = stored_pb2.Heartbeat(
        node=node,
        uid=node_uid,
        agent_version=version,
        hostname=socket.gethostname(),
        age_recipient=recipient,
        instance=instance,
    )
    beat.started_at.GetCurrentTime()
    return beat
