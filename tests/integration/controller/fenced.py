"""Signing controllers on a prefix of their own, an environment that keeps changing under them, and pauses."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.store.codec import decode
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import PEERS
from devopsellence.store.settings import Settings
from tests.integration.controller.audited import TTL_SECONDS
from tests.support.controller import REF, EnvironmentDriver
from tests.support.project import PROJECT

NODES: Final = ("n1", "n2", "n3", "n4")
PATIENCE_SECONDS: Final = 20.0


async def candidates(etcd: Etcd, check: Callable[[list[str]], bool]) -> list[str]:
    """The identities in the election, the leader first, as soon as ``check`` says yes to them."""
    prefix = etcd.keys.election_prefix
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            listing = await etcd.list(prefix)
            standing = sorted(listing.items, key=lambda item: item.create_revision)
            line = [decode(pb.Candidate, item.key, item.value).identity for item in standing]
            if check(line):
                return line
            async with aclosing(etcd.watch(prefix, start_revision=listing.revision + 1)) as batches:
                async for batch in batches:
                    if batch.events:
                        break


class Controllers:
    """Any number of signing controllers as processes; a context manager."""

    def __init__(self, etcd: Etcd, settings: Settings, folder: Path, count: int, **environ: str) -> None:
        self._etcd = etcd
        folder.mkdir(exist_ok=True)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        for number in range(count):
            identity = f"c{number}"
            with (folder / f"{identity}.log").open("wb") as stderr:
                self._processes[identity] = subprocess.Popen(
                    [sys.executable, "-m", "tests.integration.controller.audited", identity],
                    cwd=PROJECT,
                    env={**os.environ, **settings.to_environ(), **environ},
                    stdin=subprocess.DEVNULL,
                    stdout=stderr,
                    stderr=stderr,
                )

    def __enter__(self) -> Controllers:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait(10)

    async def leader(self) -> str:
        """Whoever is the first in line, as soon as somebody is."""
        return (await candidates(self._etcd, lambda line: bool(line)))[0]

    async def succeeded(self, leader: str) -> None:
        """Return once another one than ``leader`` leads."""
        await candidates(self._etcd, lambda line: bool(line) and line[0] != leader)

    async def line(self) -> list[str]:
        """The candidates, in the order in which they stood."""
        return await candidates(self._etcd, lambda _: True)

    async def all_stand(self) -> None:
        """Return once all that still run are candidates."""
        await candidates(self._etcd, lambda line: len(line) == len(self._processes))

    def send(self, identity: str, number: signal.Signals) -> None:
        self._processes[identity].send_signal(number)

    async def end(self, identity: str, number: signal.Signals) -> int:
        """Send a signal that ends the controller, and return its exit code."""
        process = self._processes.pop(identity)
        process.send_signal(number)
        return await asyncio.to_thread(process.wait, 10)

    async def stopped(self, identity: str) -> bool:
        """Return whether the controller has stopped itself, waiting for at most a second."""
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                while not self._is_stopped(identity):  # noqa: ASYNC110 - the kernel sends no notification
                    await asyncio.sleep(0.005)
                return True
        return False

    def _is_stopped(self, identity: str) -> bool:
        stat = Path(f"/proc/{self._processes[identity].pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] == "T"


@dataclass
class Pauses:
    """Counts of the pauses of controllers."""

    past_the_lease: int = 0
    shorter: int = 0
    #: Of all of them: stopped with a write in hand.
    at_a_write: int = 0
    done: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        return self.past_the_lease + self.shorter


async def pause_at_random(controllers: Controllers, rng: random.Random, count: int) -> Pauses:
    """``count`` pauses: mostly of the leader, mostly past its lease, half of them with a write in hand."""
    pauses = Pauses()
    while pauses.count < count:
        leader = await controllers.leader()
        victim = leader if rng.random() < 0.85 else rng.choice(await controllers.line() or [leader])
        at_write = victim == leader and rng.random() < 0.6
        long = rng.random() < 0.6
        seconds = rng.uniform(TTL_SECONDS + 0.2, TTL_SECONDS * 2.0) if long else rng.uniform(0.02, TTL_SECONDS * 0.9)
        if at_write:
            controllers.send(victim, signal.SIGUSR1)
            at_write = await controllers.stopped(victim)
        if not at_write:
            controllers.send(victim, signal.SIGSTOP)
        await asyncio.sleep(seconds)
        controllers.send(victim, signal.SIGCONT)
        pauses.past_the_lease += long
        pauses.shorter += not long
        pauses.at_a_write += at_write
        pauses.done.append(f"{victim}{' at a write' if at_write else ''} for {seconds:.2f} s")
        await asyncio.sleep(rng.uniform(0, 0.15))
    return pauses


class Bustle:
    """Operators and agents at work: releases, attachments, labels and statuses, all the time."""

    def __init__(self, etcd: Etcd, rng: random.Random) -> None:
        self._environment = EnvironmentDriver(etcd)
        self._etcd = etcd
        self._rng = rng
        self.release = 0

    async def begin(self) -> None:
        for name in NODES:
            await self._environment.add_node(name, "web")
        await self._deploy(NODES)

    async def go_on(self) -> None:
        """Until cancelled."""
        rng = self._rng
        while True:
            await asyncio.sleep(rng.uniform(0, 0.06))
            if rng.random() < 0.35:
                await self._deploy(rng.sample(NODES, rng.randint(1, len(NODES))))
            elif rng.random() < 0.3:
                await self._environment.add_node(rng.choice(NODES), *rng.sample(["web", "worker"], rng.randint(1, 2)))
            else:
                await self._report()

    async def written(self) -> None:
        """Return once the leader has followed a release that was not there when this was called."""
        release = self.release
        await self._environment.rollout(lambda one: one.release > release)

    async def finish(self) -> None:
        """A last release on all nodes, followed until it has settled everywhere and nothing else is assigned."""
        for name in NODES:
            await self._environment.add_node(name, "web")
        await self._deploy(NODES)
        reporting = asyncio.create_task(self._report_all())
        try:
            await self._environment.rollout(lambda one: one.release == self.release and one.phase == pb.Rollout.SETTLED)
        finally:
            reporting.cancel()
            await asyncio.gather(reporting, return_exceptions=True)
        for name in NODES:
            assert (await self._environment.assignment(name)).release == self.release
            assert await self._environment.parts(name) == [PEERS]

    async def _deploy(self, nodes: Sequence[str]) -> None:
        self.release += 1
        kinds = {f"s{number}": "web" for number in range(1, 1 + self._rng.randint(1, 3))} | {"web": "web"}
        await self._environment.release(self.release, hosts=["app.example.com"], **kinds)
        await self._environment.attach(*nodes, latest=self.release)

    async def _report_all(self) -> None:
        while True:
            await self._report()
            await asyncio.sleep(0.05)

    async def _report(self) -> None:
        """As all agents would: what is assigned is settled, what is withdrawn is removed."""
        for item in (await self._etcd.list(self._etcd.keys.all_assignments_prefix)).items:
            assignment = decode(pb.Assignment, item.key, item.value)
            phase = pb.AssignmentStatus.REMOVED if assignment.removed else pb.AssignmentStatus.SETTLED
            status = await self._environment.read(pb.AssignmentStatus, self._etcd.keys.status(assignment.node, REF))
            if status is None or (status.generation, status.phase) != (assignment.generation, phase):
                await self._environment.report(assignment, phase)
