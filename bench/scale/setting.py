"""Environment of the scale scenarios: etcd, controller, nodes, hollow agents, releases."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from google.protobuf.duration_pb2 import Duration

from bench.hollow.fleet import registrations
from bench.hollow.names import node_names
from devopsellence.api.v1 import stored_pb2, workload_pb2
from devopsellence.store.codec import decode, encode
from devopsellence.store.election import batches
from devopsellence.store.etcd import Etcd, Put
from devopsellence.store.keys import EnvironmentRef
from devopsellence.store.settings import Settings
from tests.support.etcd import EtcdServer

REF = EnvironmentRef("bench", "scale", "production")
FLEETS = 2
PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Setting:
    """An etcd, a controller, and registered nodes."""

    server: EtcdServer
    settings: Settings
    etcd: Etcd
    # None: no controller.
    controller: psutil.Process | None
    nodes: Sequence[str]

    def status(self) -> dict[str, Any]:
        """Return the status of etcd: ``raftIndex``, ``raftAppliedIndex``, ``header.revision`` …"""
        told = json.loads(self.server.etcdctl("endpoint", "status", "-w", "json"))
        return dict(told[0]["Status"])

    def processor_seconds(self) -> float:
        """Return the CPU seconds used by the controller so far."""
        used = self._process.cpu_times()
        return float(used.user + used.system)

    def memory_mib(self) -> float:
        """Return the current memory of the controller."""
        return float(self._process.memory_info().rss) / 2**20

    @property
    def _process(self) -> psutil.Process:
        if self.controller is None:
            raise RuntimeError("there is no controller here")
        return self.controller


@contextlib.asynccontextmanager
async def setting(count: int, *, controlled: bool = True) -> AsyncIterator[Setting]:
    """Start etcd and register ``count`` nodes, without agents; ``controlled``: with a controller."""
    with tempfile.TemporaryDirectory(prefix="devopsellence-scale-") as folder:
        server = EtcdServer(Path(folder) / "etcd")
        with server, contextlib.ExitStack() as stack:
            settings, log = server.settings(), Path(folder) / "controller.log"
            controller = stack.enter_context(_controller(settings, log)) if controlled else None
            async with Etcd(settings) as etcd:
                nodes = node_names(count)
                await put_all(etcd, registrations(etcd, nodes, ["web"]))
                yield Setting(server, settings, etcd, controller, nodes)


@contextlib.contextmanager
def _controller(settings: Settings, log: Path) -> Iterator[psutil.Process]:
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "devopsellence.controller"],
            env={**os.environ, **settings.to_environ()},
            stdin=subprocess.DEVNULL,
            stderr=stderr,
        )
    try:
        yield psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


class HollowProcess:
    """Process running ``python -m bench.hollow``."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def ask(self, line: str) -> dict[str, float]:
        """Send a line and return the answer."""
        if self._process.stdin is None:
            raise RuntimeError("it has no input")
        self._process.stdin.write(f"{line}\n".encode())
        return await self.hear()

    async def hear(self) -> dict[str, float]:
        if self._process.stdout is None:
            raise RuntimeError("it has no output")
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError("a process of hollow agents has ended")
        return dict(json.loads(line))

    async def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()


@contextlib.asynccontextmanager
async def fleets(
    where: Setting, settings: Settings | None = None, certificates: Path | None = None
) -> AsyncIterator[Sequence[HollowProcess]]:
    """Start a hollow agent per node, in two processes; return once all have a heartbeat.

    With ``certificates`` each agent has a connection of its own, with its node's certificate.
    """
    options = ("--certificates", str(certificates)) if certificates is not None else ()
    share = -(-len(where.nodes) // FLEETS)
    with tempfile.TemporaryDirectory(dir=memory()) as folder:
        running: list[HollowProcess] = []
        try:
            for first in range(0, len(where.nodes), share):
                count = min(share, len(where.nodes) - first)
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "bench.hollow",
                    "--first", str(first), "--count", str(count), "--folder", folder, *options,
                    env={**os.environ, **(settings or where.settings).to_environ()},
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, limit=2**24,
                )  # fmt: skip
                running.append(HollowProcess(process))
            for fleet_process in running:
                await fleet_process.hear()
            await _until_all_beat(where)
            yield running
        finally:
            for fleet_process in running:
                await fleet_process.end()


def memory() -> Path | None:
    """Return a folder in memory: a thousand agents on one disk would wait for fsync, a real agent does not."""
    folder = Path("/dev/shm")  # noqa: S108
    return folder if folder.is_dir() else None


async def _until_all_beat(where: Setting) -> None:
    prefix = where.etcd.keys.heartbeats_prefix
    async with asyncio.timeout(PATIENCE_SECONDS):
        listing = await where.etcd.list(prefix, keys_only=True)
        there = {item.key for item in listing.items}
        async for batch in where.etcd.watch(prefix, start_revision=listing.revision + 1):
            there |= {event.key for event in batch.events}
            if len(there) >= len(where.nodes):
                return


async def put_all(etcd: Etcd, puts: Sequence[Put]) -> None:
    """Write all records, 100 per transaction."""
    for batch in batches(puts):
        await etcd.txn([], batch)


def release(number: int, *, services: int = 2) -> stored_pb2.Release:
    """Return a release that replaces every container on all nodes at once."""
    release_message = stored_pb2.Release(
        organization=REF.organization, project=REF.project, environment=REF.environment, number=number,
        created_by="bench",
    )  # fmt: skip
    for place in range(services):
        service = release_message.services.add(
            name=f"s{place}",
            kind=workload_pb2.Service.WEB,
            image=workload_pb2.Image(reference="bench", pinned=f"sha256:{number:064x}"),
            env={"PORT": "3000", "RELEASE": str(number)},
            command=["/bin/serve"],
            stop_grace_period=Duration(seconds=10),
        )
        service.healthcheck.path, service.healthcheck.port = "/up", 3000
    release_message.rollout.max_parallel = "100%"
    release_message.rollout.on_failure = workload_pb2.RolloutPolicy.HALT
    release_message.rollout.progress_deadline.seconds = 600
    return release_message


async def publish(where: Setting, release_message: stored_pb2.Release) -> None:
    """Write ``release_message`` as the newest release with all nodes attached, in one transaction."""
    environment = stored_pb2.Environment(
        organization=REF.organization, project=REF.project, environment=REF.environment,
        nodes=where.nodes, latest_release=release_message.number,
    )  # fmt: skip
    keys = where.etcd.keys
    await where.etcd.txn(
        [],
        [
            Put(keys.release(REF, release_message.number), encode(release_message)),
            Put(keys.environment(REF), encode(environment)),
        ],
    )


async def settled(where: Setting, number: int) -> None:
    """Return when release ``number`` has settled."""
    key = where.etcd.keys.rollout(REF)

    def done(value: bytes) -> bool:
        rollout = decode(stored_pb2.Rollout, key, value)
        if rollout.release == number and rollout.phase == stored_pb2.Rollout.FAILED:
            raise RuntimeError(f"release {number} failed: {rollout.reason}")
        return rollout.release == number and rollout.phase == stored_pb2.Rollout.SETTLED

    async with asyncio.timeout(PATIENCE_SECONDS):
        listing = await where.etcd.list(key)
        if any(done(item.value) for item in listing.items):
            return
        async for batch in where.etcd.watch(key, start_revision=listing.revision + 1):
            if any(event.kv is not None and done(event.kv.value) for event in batch.events):
                return
