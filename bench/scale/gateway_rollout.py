"""Releases to hollow agents through two gateways against etcd directly, a gateway killed in the middle, cost at rest.

Each agent has a connection of its own with its node's certificate. Two processes of them need more processor than etcd,
controllers and gateways together: on two cores, times are those of the agents.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from bench.report import Figure
from bench.scale.gateway_setting import GatewaySetting, gateway_setting
from bench.scale.setting import PATIENCE_SECONDS, HollowProcess, fleets, publish, release, settled

REST_SECONDS: Final = 25.0
#: Pause after the last status: events, and the lists after every reconnection.
QUIET_SECONDS: Final = 12.0
_PAUSE: Final = 2.0
#: Share of the time of a rollout after which a gateway is killed.
_MIDDLE: Final = 0.4
_DIRECTLY: Final = "etcd directly"


@dataclass
class Measured:
    """Figures of all runs at one size, in pairs: through the gateways, and directly."""

    nodes: int
    followed: list[float] = field(default_factory=list)
    followed_directly: list[float] = field(default_factory=list)
    settled: list[float] = field(default_factory=list)
    settled_directly: list[float] = field(default_factory=list)
    #: CPU seconds of all controllers with their gateways for a rollout.
    cost: list[float] = field(default_factory=list)
    cost_directly: list[float] = field(default_factory=list)
    #: Seconds until settled with a gateway killed in between, minus without.
    killed: list[float] = field(default_factory=list)
    raft_entries: list[float] = field(default_factory=list)
    revisions: list[float] = field(default_factory=list)
    #: Of each controller with its gateway.
    processor_share: list[list[float]] = field(default_factory=list)
    memory: list[list[float]] = field(default_factory=list)


async def _deploy(at: GatewaySetting, running: Sequence[HollowProcess], number: int) -> tuple[float, float, float]:
    """Return the seconds until the last agent follows, and until settled, and the CPU seconds of the controllers."""
    await asyncio.sleep(_PAUSE)
    used, started = sum(at.processor_seconds()), time.monotonic()
    await publish(at.where, release(number, services=1))
    await settled(at.where, number)
    seconds = time.monotonic() - started
    cost = sum(at.processor_seconds()) - used
    return await _last_followed(at, running, number) - started, seconds, cost


async def _last_followed(at: GatewaySetting, running: Sequence[HollowProcess], number: int) -> float:
    """Return the time at which the last agent began to follow a release; a rollout does not wait for every agent."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            answers = [await process.ask(f"followed {number}") for process in running]
            if sum(answer["count"] for answer in answers) >= len(at.where.nodes):
                return max(answer["last"] for answer in answers)
            await asyncio.sleep(0.5)


async def _deploy_with_kill(at: GatewaySetting, number: int, usual: float) -> float:
    """Return the seconds until settled, with a gateway killed in the middle of the ``usual`` time."""
    standby = at.standby
    await asyncio.sleep(_PAUSE)
    started = time.monotonic()
    await publish(at.where, release(number, services=1))
    await asyncio.sleep(usual * _MIDDLE)
    standby.end()
    await settled(at.where, number)
    return time.monotonic() - started


async def _rest(at: GatewaySetting, measured: Measured) -> None:
    await asyncio.sleep(QUIET_SECONDS)
    before, used, started = at.where.status(), at.processor_seconds(), time.monotonic()
    await asyncio.sleep(REST_SECONDS)
    seconds, after = time.monotonic() - started, at.where.status()
    measured.processor_share.append(
        [(now - then) / seconds * 100 for now, then in zip(at.processor_seconds(), used, strict=True)]
    )
    measured.memory.append(at.memory_mib())
    measured.raft_entries.append(float(after["raftIndex"] - before["raftIndex"]))
    measured.revisions.append(float(after["header"]["revision"] - before["header"]["revision"]))


async def measure(nodes: int, runs: int) -> Measured:
    """Measure ``runs`` pairs at one size: agents with etcd directly, then agents with the gateways."""
    measured = Measured(nodes)
    for _ in range(runs):
        async with _running(nodes, gateways=False) as (at, running):
            followed, seconds, cost = await _deploy(at, running, 2)
            measured.followed_directly.append(followed)
            measured.settled_directly.append(seconds)
            measured.cost_directly.append(cost)
        async with _running(nodes, gateways=True) as (at, running):
            followed, seconds, cost = await _deploy(at, running, 2)
            measured.followed.append(followed)
            measured.settled.append(seconds)
            measured.cost.append(cost)
            await _rest(at, measured)
            measured.killed.append(await _deploy_with_kill(at, 3, seconds) - seconds)
    return measured


@asynccontextmanager
async def _running(nodes: int, *, gateways: bool) -> AsyncIterator[tuple[GatewaySetting, Sequence[HollowProcess]]]:
    """Start agents, which have rolled out a first release."""
    async with (
        gateway_setting(nodes, gateways=gateways) as at,
        fleets(at.where, at.through, at.certificates) as running,
    ):
        await _deploy(at, running, 1)
        yield at, running


def figures_of(measured: Measured, base: Measured) -> list[Figure]:
    """Return the figures at one size; ``base``: those of the smallest size, for the cost of a node."""
    nodes = f"{measured.nodes} agents, two gateways"
    rest = f"{REST_SECONDS:.0f} s at rest"
    against = f"{base.nodes} agents"
    return [
        Figure(
            f"{nodes}: release written to the last agent following it", "s", measured.followed,
            _DIRECTLY, measured.followed_directly,
        ),
        Figure(
            f"{nodes}: release written to settled", "s", measured.settled,
            _DIRECTLY, measured.settled_directly, limit=1.5,
        ),
        Figure(f"{nodes}: more with a gateway killed in the middle", "s", measured.killed, limit=2.0),
        Figure(
            f"{nodes}: processor of controllers and gateways for a rollout, each node", "ms",
            [seconds / measured.nodes * 1000 for seconds in measured.cost], against,
            [seconds / base.nodes * 1000 for seconds in base.cost],
        ),
        Figure(
            f"{nodes}: the same as a ratio", "s", measured.cost, _DIRECTLY, measured.cost_directly
        ),
        Figure(f"{nodes}: raft entries in {rest}", "entries", measured.raft_entries, limit=0),
        Figure(f"{nodes}: etcd revisions in {rest}", "revisions", measured.revisions, limit=0),
        Figure(
            f"{nodes}: processor of a controller with gateway, {rest}", "% of a core",
            [max(shares) for shares in measured.processor_share],
        ),
        Figure(
            f"{nodes}: processor of both controllers with gateways, {rest}", "% of a core",
            [sum(shares) for shares in measured.processor_share],
        ),
        Figure(
            f"{nodes}: memory of a controller with gateway", "MiB", [max(used) for used in measured.memory],
        ),
    ]  # fmt: skip


async def figures(runs: int, *, sizes: Sequence[int]) -> list[Figure]:
    """Measure at all sizes."""
    found = [await measure(nodes, runs) for nodes in sizes]
    return [figure for measured in found for figure in figures_of(measured, found[0])]
