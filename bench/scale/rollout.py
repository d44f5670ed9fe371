"""Rollout to a thousand hollow agents until settled, and idle cost afterwards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from bench.report import Figure
from bench.scale.setting import HollowProcess, Setting, fleets, publish, release, setting, settled

NODES = 1000
REST_SECONDS = 25.0
#: Pause for leftovers of the previous run: events, delayed checks of agents.
_PAUSE = 2.0
#: Pause after the last status: events, and the list after every reconnection.
QUIET_SECONDS = 12.0


async def _deploy(where: Setting, running: Sequence[HollowProcess], number: int) -> tuple[float, float, float]:
    """Return the seconds until the last agent follows the assignment, has created a container, and until settled."""
    started = time.monotonic()
    await publish(where, release(number, services=1))
    await settled(where, number)
    seconds = time.monotonic() - started
    followed = [await process.ask(f"followed {number}") for process in running]
    created: dict[str, float] = {}
    for process in running:
        created |= await process.ask(f"created {number}")
    if min(len(created), sum(answer["count"] for answer in followed)) < len(where.nodes):
        raise RuntimeError(f"{len(where.nodes) - len(created)} agents have not acted on release {number}")
    return max(answer["last"] for answer in followed) - started, max(created.values()) - started, seconds


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
        seconds = []
        for turn in range(runs):
            await asyncio.sleep(_PAUSE)
            seconds.append(await _deploy(where, running, 2 + turn))
        followed, created, whole = (list(column) for column in zip(*seconds, strict=True))
        return [
            Figure(f"{nodes} nodes: release written to the last agent following it", "s", followed),
            Figure(f"{nodes} nodes: release written to the last agent's first call", "s", created),
            Figure(f"{nodes} nodes: release written to settled, all at once", "s", whole, limit=5.0),
            *await _at_rest(where),
        ]
