"""A release for a thousand hollow agents: how soon all have it, and how soon it has settled, against plain watchers."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence

from bench.report import Figure
from bench.scale.setting import HollowProcess, Setting, fleets, publish, put_all, release, setting, settled
from devopsellence.store.etcd import Put

NODES = 1000
REST_SECONDS = 25.0
#: After the last status: events, and the lists with which every reconnection ends.
QUIET_SECONDS = 12.0


async def _floor(where: Setting, running: Sequence[HollowProcess], turn: int) -> float:
    """Seconds until every plain watcher has heard of as many bytes as its agent's assignment has."""
    listing = await where.etcd.list(where.etcd.keys.all_assignments_prefix)
    size = sum(len(item.value) for item in listing.items) // max(1, len(listing.items))
    prefix = f"/floor/{turn}/"
    for each in running:
        await each.ask(f"watch {prefix}")
    value = secrets.token_hex(size // 2 + 1).encode()[:size]
    started = time.monotonic()
    await put_all(where.etcd, [Put(f"{prefix}{name}/it", value) for name in where.nodes])
    heard: dict[str, float] = {}
    async with asyncio.timeout(30):
        while len(heard) < len(where.nodes) or min(heard.values()) < started:
            for each in running:
                heard |= await each.ask("watched")
    return max(heard.values()) - started


async def _deploy(where: Setting, running: Sequence[HollowProcess], number: int) -> tuple[float, float]:
    """Seconds until the last agent has made its first container of the release, and until that has settled."""
    started = time.monotonic()
    await publish(where, release(number))
    await settled(where, number)
    seconds = time.monotonic() - started
    created: dict[str, float] = {}
    for each in running:
        created |= await each.ask(f"created {number}")
    if len(created) < len(where.nodes):
        raise RuntimeError(f"{len(where.nodes) - len(created)} agents have not acted on release {number}")
    return max(created.values()) - started, seconds


async def _at_rest(where: Setting) -> list[Figure]:
    await asyncio.sleep(QUIET_SECONDS)
    before, used, started = where.status(), where.processor_seconds(), time.monotonic()
    await asyncio.sleep(REST_SECONDS)
    share = (where.processor_seconds() - used) / (time.monotonic() - started) * 100
    after = where.status()
    period = f"{REST_SECONDS:.0f} s at rest, {len(where.nodes)} nodes"
    return [
        Figure(f"raft entries in {period}", "entries", [float(after["raftIndex"] - before["raftIndex"])], limit=0),
        Figure(
            f"etcd revisions in {period}",
            "revisions",
            [float(after["header"]["revision"] - before["header"]["revision"])],
            limit=0,
        ),
        Figure(f"controller: processor, {period}", "% of a core", [share], limit=1.0),
        Figure(f"controller: memory, {len(where.nodes)} nodes", "MiB", [where.memory_mib()], limit=300.0),
    ]


async def figures(runs: int, *, nodes: int = NODES) -> list[Figure]:
    async with setting(nodes) as where, fleets(where) as running:
        await _deploy(where, running, 1)
        assigned, whole, floors = [], [], []
        for turn in range(runs):
            floors.append(await _floor(where, running, turn))
            seconds = await _deploy(where, running, 2 + turn)
            assigned.append(seconds[0])
            whole.append(seconds[1])
        return [
            Figure(f"{nodes} nodes: release written to the last agent's first action", "s", assigned, limit=1.0),
            Figure(f"{nodes} nodes: the same, as a ratio", "s", assigned, "as many bytes to plain watchers", floors),
            Figure(f"{nodes} nodes: release written to settled, all at once", "s", whole, limit=5.0),
            *await _at_rest(where),
        ]
