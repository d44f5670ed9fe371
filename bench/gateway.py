"""Cost of a gateway: reads, writes and fan-out through it against etcd directly, in turn.

A real etcd and a real controller with a gateway, each a process of its own. The figures against etcd have TLS on the
gateway's side only, so its ratio contains the cost of encryption.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import psutil

from bench.report import Figure
from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.gateway.rules.caller import Role
from devopsellence.controller.gateway.rules.limits import PROFILES
from devopsellence.store.codec import encode
from devopsellence.store.etcd import Etcd, Put
from devopsellence.store.identities import user_of_node
from devopsellence.store.keys import EnvironmentRef
from devopsellence.store.settings import Settings
from tests.support.authority import Authority, settings_with
from tests.support.controller import ControllerProcess
from tests.support.etcd import EtcdServer
from tests.support.ports import free_ports

REF = EnvironmentRef("bench", "gateway", "production")
CALLS: Final = 300
AT_ONCE: Final = 32
WATCHERS: Final = 300


@dataclass(frozen=True)
class Setting:
    """An etcd, and the gateway of a controller in front of it."""

    direct: Settings
    gateway: Settings
    authority: Authority
    process: psutil.Process

    def node(self, name: str) -> Settings:
        return settings_with(self.gateway, self.authority.issue(user_of_node(f"uid-{name}")))


@asynccontextmanager
async def setting() -> AsyncIterator[Setting]:
    with tempfile.TemporaryDirectory(prefix="devopsellence-gateway-") as folder:
        authority = Authority(Path(folder) / "ca")
        files = authority.issue_server("gateway")
        (port,) = free_ports(1)
        with EtcdServer(Path(folder) / "etcd") as server:
            direct = server.settings()
            async with Etcd(direct) as etcd:
                nodes = [pb.Node(name=f"n{number}", uid=f"uid-n{number}") for number in range(WATCHERS)]
                for start in range(0, WATCHERS, 100):
                    puts = [Put(etcd.keys.node(node.name), encode(node)) for node in nodes[start : start + 100]]
                    await etcd.txn([], puts)
                await etcd.put(etcd.keys.assignment("n0", REF), b"{}")
            controller = ControllerProcess(
                direct,
                Path(folder) / "controller.log",
                f"--gateway-listen=127.0.0.1:{port}",
                f"--gateway-cert={files.certificate}",
                f"--gateway-key={files.key}",
                f"--gateway-ca-cert={files.authority}",
            )
            try:
                await controller.logged("leading")
                through = replace(direct, endpoints=(f"127.0.0.1:{port}",))
                yield Setting(direct, through, authority, psutil.Process(controller.pid))
            finally:
                controller.end()


async def median_ms(call: Callable[[], Awaitable[object]]) -> float:
    """Return the median time of one call after the other, in milliseconds."""
    times = []
    for _ in range(CALLS):
        started = time.perf_counter()
        await call()
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1000


async def rate_and_processor_ms(process: psutil.Process, call: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    """Return calls a second with several at once, and the processor time of the gateway for each, in milliseconds."""
    before, started = process.cpu_times(), time.perf_counter()
    for _ in range(CALLS * 4 // AT_ONCE):
        await asyncio.gather(*(call() for _ in range(AT_ONCE)))
    seconds, after = time.perf_counter() - started, process.cpu_times()
    calls = CALLS * 4 // AT_ONCE * AT_ONCE
    return calls / seconds, (after.user + after.system - before.user - before.system) / calls * 1000


async def fan_out_seconds(writer: Etcd, connect: Callable[[int], Settings]) -> float:
    """Return the time until one write for each of many nodes has reached the watch of that node."""
    async with AsyncExitStack() as stack:
        watches = []
        for number in range(WATCHERS):
            etcd = await stack.enter_async_context(Etcd(connect(number)))
            watches.append(etcd.watch(etcd.keys.assignments_prefix(f"n{number}"), start_revision=0))
            await anext(watches[-1])
        waiting = asyncio.gather(*(anext(watch) for watch in watches))
        started = time.perf_counter()
        for start in range(0, WATCHERS, 100):
            numbers = range(start, min(start + 100, WATCHERS))
            await writer.txn([], [Put(writer.keys.assignment(f"n{number}", REF), b"{}") for number in numbers])
        await waiting
        seconds = time.perf_counter() - started
        for watch in watches:
            await watch.aclose()
        return seconds


async def all_figures(runs: int) -> list[Figure]:
    """Measure a gateway and etcd in turn."""
    status = pb.AssignmentStatus(node="n0", node_uid="uid-n0")
    status.organization, status.project, status.environment = REF.organization, REF.project, REF.environment
    value = encode(status)
    found: dict[str, list[float]] = {
        name: [] for name in ("read", "read'", "write", "write'", "rate", "cost", "fan", "fan'")
    }
    async with setting() as made, Etcd(made.direct) as direct, Etcd(made.node("n0")) as through:
        key, status_key = direct.keys.node("n0"), direct.keys.status("n0", REF)
        for _ in range(runs):
            found["read"].append(await median_ms(lambda: through.get(key)))
            found["read'"].append(await median_ms(lambda: direct.get(key)))
            rate, cost = await rate_and_processor_ms(made.process, lambda: through.get(key))
            found["rate"].append(rate)
            found["cost"].append(cost)
            found["write"].append(await median_ms(lambda: through.put(status_key, value)))
            found["write'"].append(await median_ms(lambda: direct.put(status_key, value)))
            # The node regains its limit of writes.
            await asyncio.sleep(CALLS / PROFILES[Role.NODE].writes.per_second)
            found["fan"].append(await fan_out_seconds(direct, lambda number: made.node(f"n{number}")))
            found["fan'"].append(await fan_out_seconds(direct, lambda _: made.direct))
    return [
        Figure("gateway: read a key", "ms", found["read"], "etcd directly", found["read'"]),
        Figure("gateway: write a status", "ms", found["write"], "etcd directly", found["write'"]),
        Figure(f"gateway: reads with {AT_ONCE} at once", "1/s", found["rate"]),
        Figure("gateway: processor time of a read", "ms", found["cost"]),
        Figure(f"gateway: {WATCHERS} nodes told", "s", found["fan"], "etcd directly", found["fan'"]),
    ]
