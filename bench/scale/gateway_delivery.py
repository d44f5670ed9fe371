"""Releases as assignments to the watches of up to 5,000 nodes, through two gateways against etcd directly.

No agents: thousands of them need more processor than two cores have. Each watch is a connection of its own with the
certificate of its node.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

from bench.hollow.fleet import uid_of
from bench.report import Figure
from bench.scale.gateway_setting import GatewaySetting, gateway_setting
from bench.scale.setting import PATIENCE_SECONDS, publish, put_all, release
from devopsellence.api.v1 import stored_pb2
from devopsellence.store.codec import encode
from devopsellence.store.etcd import Etcd, Put
from devopsellence.store.settings import Settings

_OPENED_AT_ONCE: Final = 50
#: Pause before a release, for leftovers of opening the watches.
_PAUSE: Final = 3.0
#: Seconds from a release to the last node's watch.
LIMITS: Final[Mapping[int, float]] = {1000: 1.5, 5000: 8.0}


@dataclass
class Measured:
    """Figures of all runs at one size, in pairs: through the gateways, and directly."""

    nodes: int
    told: list[float] = field(default_factory=list)
    told_directly: list[float] = field(default_factory=list)
    #: CPU seconds of all controllers with their gateways.
    cost: list[float] = field(default_factory=list)
    #: Memory of the larger controller with its gateway.
    memory: list[float] = field(default_factory=list)


class _Watches:
    """Watches of all nodes, each on a connection of its own with the node's certificate; without agents."""

    def __init__(self, at: GatewaySetting, settings: Settings) -> None:
        self._at = at
        self._settings = settings
        # One process would not open a thousand connections at once in time.
        self._opening = asyncio.Semaphore(_OPENED_AT_ONCE)
        self._closed = self._untold = len(at.where.nodes)
        self.open, self.all_told, self.close = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def told(self, name: str) -> float:
        """Return the time at which the watch of a node has heard something."""
        async with (
            Etcd(self._at.node(self._settings, name)) as etcd,
            aclosing(etcd.watch(etcd.keys.assignments_prefix(name), start_revision=0)) as watch,
        ):
            async with self._opening:
                await anext(watch)
            self._closed -= 1
            if not self._closed:
                self.open.set()
            await anext(watch)
            told = time.monotonic()
            self._untold -= 1
            if not self._untold:
                self.all_told.set()
            # The others are not to be held up by the end of this connection.
            await self.close.wait()
            return told


@dataclass(frozen=True)
class _Told:
    """Time until all watches have heard of a release, and what the controllers used."""

    seconds: float
    processor_seconds: float
    memory_mib: float


async def _told(at: GatewaySetting, settings: Settings, number: int) -> _Told:
    """Write a release, and return once the last node's own watch has heard of its assignment."""
    watches = _Watches(at, settings)
    async with asyncio.timeout(PATIENCE_SECONDS * 4), asyncio.TaskGroup() as tasks:
        told = [tasks.create_task(watches.told(name)) for name in at.where.nodes]
        await watches.open.wait()
        await asyncio.sleep(_PAUSE)
        used, started = sum(at.processor_seconds()), time.monotonic()
        await publish(at.where, release(number, services=1))
        await watches.all_told.wait()
        cost, memory = sum(at.processor_seconds()) - used, max(at.memory_mib())
        watches.close.set()
    return _Told(max(task.result() for task in told) - started, cost, memory)


@contextlib.asynccontextmanager
async def _beating(at: GatewaySetting) -> AsyncIterator[None]:
    """Let all nodes appear reachable without agents."""
    keys = at.where.etcd.keys
    beats = [stored_pb2.Heartbeat(node=name, uid=uid_of(name)) for name in at.where.nodes]
    await put_all(at.where.etcd, [Put(keys.heartbeat(beat.node), encode(beat)) for beat in beats])
    yield
    await at.where.etcd.delete(keys.heartbeats_prefix)


async def measure(nodes: int, runs: int) -> Measured:
    """Measure ``runs`` pairs at one size."""
    measured, numbers = Measured(nodes), itertools.count(1)
    async with gateway_setting(nodes) as at, _beating(at):
        await _told(at, at.through, next(numbers))
        for _ in range(runs):
            measured.told_directly.append((await _told(at, at.where.settings, next(numbers))).seconds)
            told = await _told(at, at.through, next(numbers))
            measured.told.append(told.seconds)
            measured.cost.append(told.processor_seconds)
            measured.memory.append(told.memory_mib)
    return measured


def figures_of(measured: Measured, base: Measured) -> list[Figure]:
    """Return the figures at one size; ``base``: those of the smallest size, for the cost of a node."""
    nodes = f"{measured.nodes} nodes, two gateways"
    return [
        Figure(f"{nodes}: release to the last node's watch", "s", measured.told, limit=LIMITS.get(measured.nodes)),
        Figure(
            f"{nodes}: the same as a ratio", "s", measured.told, "etcd directly", measured.told_directly
        ),
        Figure(
            f"{nodes}: processor of both controllers, each node", "ms",
            [seconds / measured.nodes * 1000 for seconds in measured.cost], f"{base.nodes} nodes",
            [seconds / base.nodes * 1000 for seconds in base.cost],
        ),
        Figure(f"{nodes}: memory of a controller", "MiB", measured.memory),
    ]  # fmt: skip


async def figures(runs: int, *, sizes: Sequence[int]) -> list[Figure]:
    """Measure at all sizes."""
    found = [await measure(nodes, runs) for nodes in sizes]
    return [figure for measured in found for figure in figures_of(measured, found[0])]
