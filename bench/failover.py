"""Failover time: the leading controller is killed or stopped, until another controller works.

Two real controllers and an etcd, all with default settings. Measures the time from before the signal until a release
written at the same moment has become an assignment.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from bench.report import Figure
from devopsellence.api.v1 import stored_pb2, workload_pb2
from devopsellence.store.codec import decode, encode
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef
from devopsellence.store.settings import Settings

REF = EnvironmentRef("bench", "failover", "production")
NODE = "n1"
#: Keepalive interval of leases in seconds: the signal is sent at a random moment within the interval.
KEEPALIVE_SECONDS = 1.4
WAIT_SECONDS = 30.0


class Pair:
    """Two controllers on one etcd; a stopped controller is replaced."""

    def __init__(self, etcd: Etcd, settings: Settings) -> None:
        self._etcd = etcd
        self._environ = {**os.environ, **settings.to_environ()}
        self._controllers: dict[str, subprocess.Popen[bytes]] = {}
        self._started = 0
        self._release = 0

    async def fill(self) -> None:
        """Start controllers until two candidates wait with warm caches."""
        while len(self._controllers) < 2:
            self._started += 1
            identity = f"controller-{self._started}"
            command = [sys.executable, "-m", "devopsellence.controller", "--identity", identity]
            self._controllers[identity] = subprocess.Popen(  # noqa: ASYNC220 - does not block
                command, env=self._environ, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        async with asyncio.timeout(WAIT_SECONDS):
            while len(await self._line()) < 2:  # noqa: ASYNC110 - nothing is measured meanwhile
                await asyncio.sleep(0.05)

    async def measure(self, number: signal.Signals) -> float:
        """Return the seconds from before the signal until a release written at that moment is assigned."""
        leader = self._controllers.pop((await self._line())[0])
        self._release += 1
        started = time.monotonic()
        leader.send_signal(number)
        await self._write_release()
        await self._assigned()
        seconds = time.monotonic() - started
        await asyncio.to_thread(leader.wait, WAIT_SECONDS)
        return seconds

    def end(self) -> None:
        for controller in self._controllers.values():
            controller.kill()
            controller.wait(WAIT_SECONDS)

    async def register(self) -> None:
        keys = self._etcd.keys
        await self._etcd.put(keys.node(NODE), encode(stored_pb2.Node(name=NODE, uid="uid", labels=["web"])))
        await self._etcd.put(keys.heartbeat(NODE), encode(stored_pb2.Heartbeat(node=NODE, uid="uid")))

    async def _line(self) -> list[str]:
        """Return the identities of the candidates; the first leads."""
        listing = await self._etcd.list(self._etcd.keys.election_prefix)
        standing = sorted(listing.items, key=lambda item: item.create_revision)
        return [decode(stored_pb2.Candidate, item.key, item.value).identity for item in standing]

    async def _write_release(self) -> None:
        keys = self._etcd.keys
        named: dict[str, Any] = {
            "organization": REF.organization,
            "project": REF.project,
            "environment": REF.environment,
        }
        web = workload_pb2.Service(name="web", kind=workload_pb2.Service.WEB)
        release = stored_pb2.Release(**named, number=self._release, services=[web])
        await self._etcd.put(keys.release(REF, self._release), encode(release))
        environment = stored_pb2.Environment(**named, nodes=[NODE], latest_release=self._release)
        await self._etcd.put(keys.environment(REF), encode(environment))

    async def _assigned(self) -> None:
        key = self._etcd.keys.assignment(NODE, REF)

        def done(value: bytes) -> bool:
            return decode(stored_pb2.Assignment, key, value).release == self._release

        async with asyncio.timeout(WAIT_SECONDS):
            listing = await self._etcd.list(key)
            if any(done(item.value) for item in listing.items):
                return
            async with contextlib.aclosing(self._etcd.watch(key, start_revision=listing.revision + 1)) as batches:
                async for batch in batches:
                    if any(event.kv is not None and done(event.kv.value) for event in batch.events):
                        return


async def all_figures(runs: int) -> list[Figure]:
    """Measure ``runs`` kills and as many clean stops."""
    async with _pair() as pair:
        killed, stopped = [], []
        for _ in range(runs):
            await pair.fill()
            await asyncio.sleep(random.uniform(0.0, KEEPALIVE_SECONDS))  # noqa: S311 - any moment between two keepalives
            killed.append(await pair.measure(signal.SIGKILL))
            await pair.fill()
            stopped.append(await pair.measure(signal.SIGTERM))
    return [
        Figure("controller killed, the other assigns", "s", killed),
        Figure("controller killed, at worst", "s", [max(killed)], limit=6.0),
        Figure("controller stopped, the other assigns", "s", stopped),
        Figure("controller stopped, at worst", "s", [max(stopped)], limit=1.0),
    ]


@contextlib.asynccontextmanager
async def _pair() -> AsyncIterator[Pair]:
    with tempfile.TemporaryDirectory(prefix="devopsellence-bench-") as folder, _etcd(Path(folder)) as settings:
        async with Etcd(settings, timeout=WAIT_SECONDS) as etcd:
            pair = Pair(etcd, settings)
            try:
                await pair.register()
                yield pair
            finally:
                pair.end()


@contextlib.contextmanager
def _etcd(folder: Path) -> Iterator[Settings]:
    """Start an etcd member with default timing."""
    with contextlib.ExitStack() as stack:
        ports = []
        for _ in range(2):
            probe = stack.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    client, peer = (f"http://127.0.0.1:{port}" for port in ports)
    command = [
        "etcd",
        f"--data-dir={folder}/etcd",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
    ]
    command += [
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
    ]
    process = subprocess.Popen([*command, "--log-level=error"], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield Settings((client.removeprefix("http://"),))
    finally:
        process.kill()
        process.wait(WAIT_SECONDS)
