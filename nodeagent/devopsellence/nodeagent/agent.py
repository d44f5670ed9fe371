"""The agent, put together: who is told of what, how it starts and how it ends."""

from __future__ import annotations

import asyncio
import gc
import socket
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

import structlog

from devopsellence.api.v1 import stored_pb2
from devopsellence.nodeagent.api.images import Images
from devopsellence.nodeagent.api.server import Api, Listen
from devopsellence.nodeagent.assigned import Assignments
from devopsellence.nodeagent.disk import DiskWatch
from devopsellence.nodeagent.engine import Callbacks, Engine
from devopsellence.nodeagent.heartbeat import Heartbeat
from devopsellence.nodeagent.identity import load_identity
from devopsellence.nodeagent.images import Garbage
from devopsellence.nodeagent.pool import Pool
from devopsellence.nodeagent.reconcile import Reconciler
from devopsellence.nodeagent.rest import Rest
from devopsellence.nodeagent.secrets import Vault
from devopsellence.nodeagent.staging import Staging
from devopsellence.nodeagent.state import StateFolder
from devopsellence.nodeagent.statuses import Statuses
from devopsellence.store.errors import StoreError
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef
from devopsellence.store.lease import LeaseKeeper
from devopsellence.store.settings import Settings

#: At a clean end, for the last statuses and the lease, when etcd does not answer.
GOODBYE_SECONDS: Final = 3.0
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
    listen: Listen | None = None


async def run(options: Options, folder: StateFolder, stop: asyncio.Event) -> None:
    """Run until ``stop`` is set: then no new action is begun, those in hand end, containers go on."""
    async with Etcd(options.settings) as etcd, LeaseKeeper(etcd) as keeper:
        await _Agent(options, folder, etcd, keeper).run(stop)


class _Agent:
    def __init__(self, options: Options, folder: StateFolder, etcd: Etcd, keeper: LeaseKeeper) -> None:
        disk = Pool(1, "disk")
        node, uid = options.node, options.node_uid
        identity = load_identity(options.state_dir)
        vault = Vault(identity)
        self._rest = Rest()
        self._engine = Engine(
            options.docker_host,
            uid,
            Callbacks(changed=self._engine_changed, image=self._image_arrived, connection=self._connection_changed),
        )
        self._statuses = Statuses(etcd, etcd.keys, node, folder, disk)
        self._assignments = Assignments(etcd, etcd.keys, node, uid, folder, disk, self._assignment_changed)
        self._garbage = Garbage(self._engine, options.state_dir / "images.json", disk)
        self._reconciler = Reconciler(
            node, uid, self._engine, self._assignments, self._statuses, folder, disk, vault, self._garbage
        )
        beat = _first_beat(node, uid, identity.recipient)
        self._heartbeat = Heartbeat(etcd, etcd.keys, keeper, beat)
        self._disk = DiskWatch(self._engine, disk, self._heartbeat.room)
        self._foreign = ""
        self._api: Api | None = None
        if options.listen is not None:
            images = Images(self._engine, Staging(options.state_dir / "staging"), self._garbage)
            self._api = Api(options.listen, options.state_dir, beat, self._engine, self._assignments, vault, images)
            beat.api_address = self._api.address

    async def run(self, stop: asyncio.Event) -> None:
        await self._assignments.load()
        await self._garbage.load()
        if self._api is not None:
            # Before the heartbeat tells of it, and also without etcd, from the assignments on disk.
            await self._api.start()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(each)
                for each in (
                    self._engine.run(),
                    self._assignments.run(),
                    self._statuses.run(),
                    self._heartbeat.run(),
                    self._disk.run(),
                )
            ]
            await self._assignments.first_list()
            converging = group.create_task(self._reconciler.run())
            # What is here now stays: the collector need not look at it again and again.
            gc.freeze()
            self._rest.stir()
            await stop.wait()
            _log.info("stopping")
            converging.cancel()
            self._garbage.close()
            if self._api is not None:
                await self._api.stop()
            await self._reconciler.close()
            for task in tasks:
                task.cancel()
        with suppress(TimeoutError, StoreError, ExceptionGroup):
            async with asyncio.timeout(GOODBYE_SECONDS):
                await self._statuses.flush()
                await self._heartbeat.close()

    def _assignment_changed(self, env: EnvironmentRef) -> None:
        self._reconciler.enqueue(env)
        self._say()

    def _engine_changed(self, env: str) -> None:
        self._rest.stir()
        self._reconciler.changed(env)

    def _image_arrived(self) -> None:
        self._reconciler.image_arrived()

    def _connection_changed(self) -> None:
        self._say()
        if self._engine.connected:
            self._disk.engine_connected()
            self._reconciler.everything()
            if self._api is not None:
                self._api.engine_connected()

    def _say(self) -> None:
        """Put into the heartbeat what keeps this agent from its work."""
        problem, foreign = self._engine.problem, self._assignments.foreign
        if foreign and foreign != self._foreign:
            _log.warning("this node's assignments are for another machine; what runs here goes on", uid=foreign)
        self._foreign = foreign
        if not problem and foreign:
            problem = f"this node's assignments are for the machine with uid {foreign}, which this one is not"
        self._heartbeat.update(problem=problem, docker_version=self._engine.version)


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
