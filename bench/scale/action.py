"""Reaction time of an agent: from the write of an assignment to the first engine call, under other writes."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Sequence

from bench.hollow.fleet import uid_of
from bench.report import Figure
from bench.scale.setting import REF, HollowProcess, Setting, fleets, release, setting
from devopsellence.api.v1 import stored_pb2
from devopsellence.store.codec import decode, encode

AGENTS = 20
SAMPLES = 400
APART = 0.05
WRITES_A_SECOND = 50


def _assignment(node: str, number: int) -> stored_pb2.Assignment:
    return stored_pb2.Assignment(
        node=node, node_uid=uid_of(node), organization=REF.organization, project=REF.project,
        environment=REF.environment, generation=number, release=number, services=release(number, services=1).services,
    )  # fmt: skip


async def _elsewhere(where: Setting) -> None:
    """Write assignments of other nodes until cancelled."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    for number in itertools.count(1):
        node = f"elsewhere{number % 100}"
        await where.etcd.put(where.etcd.keys.assignment(node, REF), encode(_assignment(node, number)))
        due += 1 / WRITES_A_SECOND
        await asyncio.sleep(max(0.0, due - loop.time()))


async def _hear(where: Setting, heard: dict[int, float], stands: asyncio.Event) -> None:
    """Record the times at which a plain watcher receives the releases, until cancelled."""
    prefixes = {where.etcd.keys.assignment(node, REF) for node in where.nodes}
    async for batch in where.etcd.watch(where.etcd.keys.all_assignments_prefix, start_revision=0):
        stands.set()
        now = time.monotonic()
        for event in batch.events:
            if event.kv is not None and event.key in prefixes:
                heard[decode(stored_pb2.Assignment, event.key, event.kv.value).release] = now


async def _sample(where: Setting, running: Sequence[HollowProcess], first: int) -> tuple[list[float], list[float]]:
    """Return the milliseconds of every write for the agent, and for a plain watcher of the same writes.

    Every write is a new release, from number ``first`` on, and so creates a container.
    """
    heard: dict[int, float] = {}
    stands = asyncio.Event()
    hearing = asyncio.create_task(_hear(where, heard, stands))
    await stands.wait()
    started: dict[int, float] = {}
    for number in range(first, first + SAMPLES):
        node = where.nodes[number % len(where.nodes)]
        value = encode(_assignment(node, number))
        started[number] = time.monotonic()
        await where.etcd.put(where.etcd.keys.assignment(node, REF), value)
        await asyncio.sleep(APART)
    await asyncio.sleep(1)
    hearing.cancel()
    took = []
    for number, at in started.items():
        created: dict[str, float] = {}
        for process in running:
            created |= await process.ask(f"created {number}")
        took += [(moment - at) * 1000 for moment in created.values()]
    if len(took) != SAMPLES:
        raise RuntimeError(f"{SAMPLES - len(took)} assignments led to nothing")
    return took, [(heard[number] - at) * 1000 for number, at in started.items()]


async def figures(runs: int) -> list[Figure]:
    ours: list[list[float]] = []
    theirs: list[list[float]] = []
    async with setting(AGENTS, controlled=False) as where, fleets(where) as running:
        others = asyncio.create_task(_elsewhere(where))
        for run in range(runs):
            took, heard = await _sample(where, running, 1 + run * SAMPLES)
            ours.append(took)
            theirs.append(heard)
        others.cancel()
    beside = f"{WRITES_A_SECOND} writes a second elsewhere"
    watcher = "a plain watcher of the same"
    return [
        Figure(f"assignment written to first call, p99, {beside}", "ms", [_p99(run) for run in ours], limit=25.0),
        *(
            Figure(
                f"assignment written to first call, {name}", "ms", [of(run) for run in ours],
                watcher, [of(run) for run in theirs],
            )
            for name, of in (("p50", statistics.median), ("p99, as a ratio", _p99))
        ),
    ]  # fmt: skip


def _p99(values: Sequence[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]
