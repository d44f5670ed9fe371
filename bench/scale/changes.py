"""Controller cost of a status change by number of nodes: CPU time per change."""

from __future__ import annotations

import asyncio
import time

from bench.hollow.fleet import uid_of
from bench.report import Figure
from bench.scale.setting import REF, Setting, publish, put_all, release, setting, settled
from devopsellence.api.v1 import stored_pb2
from devopsellence.store.codec import decode, encode
from devopsellence.store.etcd import Put

SIZES = (100, 300, 1000, 3000)
CHANGES = 100
#: Pause between two changes: longer than the controller batches changes, so that every change is a separate round.
APART = 0.05
#: Pause after the last change, until the controller is idle.
REST = 1.5


async def _settle(where: Setting) -> dict[str, stored_pb2.AssignmentStatus]:
    """Write a release of one service and settled statuses of all nodes; return the statuses by key."""
    keys = where.etcd.keys
    beats = [stored_pb2.Heartbeat(node=name, uid=uid_of(name)) for name in where.nodes]
    await put_all(where.etcd, [Put(keys.heartbeat(beat.node), encode(beat)) for beat in beats])
    await publish(where, release(1, services=1))
    statuses: dict[str, stored_pb2.AssignmentStatus] = {}
    async with asyncio.timeout(60):
        while len(statuses) < len(where.nodes):
            for item in (await where.etcd.list(keys.all_assignments_prefix)).items:
                given = decode(stored_pb2.Assignment, item.key, item.value)
                statuses[keys.status(given.node, REF)] = _status(given)
    await put_all(where.etcd, [Put(key, encode(status)) for key, status in statuses.items()])
    await settled(where, 1)
    await asyncio.sleep(REST)
    return statuses


def _status(given: stored_pb2.Assignment) -> stored_pb2.AssignmentStatus:
    """Return the status of a settled agent."""
    return stored_pb2.AssignmentStatus(
        node=given.node, node_uid=given.node_uid, organization=REF.organization, project=REF.project,
        environment=REF.environment, generation=given.generation, release=given.release,
        phase=stored_pb2.AssignmentStatus.SETTLED,
        services=[
            stored_pb2.ServiceStatus(
                name=service.name, phase=stored_pb2.ServiceStatus.RUNNING, health=stored_pb2.ServiceStatus.HEALTHY,
                container="0123456789ab", hash="f" * 64, release=given.release, address="172.18.0.2",
                image=service.image.pinned,
            )
            for service in given.services
        ],
    )  # fmt: skip


def _moved(status: stored_pb2.AssignmentStatus) -> bytes:
    """Toggle a status between settled and restarting, a change that reaches the Rollout."""
    (service,) = status.services
    up = service.phase == stored_pb2.ServiceStatus.RUNNING
    service.phase = stored_pb2.ServiceStatus.BACKOFF if up else stored_pb2.ServiceStatus.RUNNING
    service.reason = "has ended with exit code 1" if up else ""
    status.phase = stored_pb2.AssignmentStatus.CONVERGING if up else stored_pb2.AssignmentStatus.SETTLED
    return encode(status)


async def _one_by_one(where: Setting, statuses: dict[str, stored_pb2.AssignmentStatus]) -> float:
    """Return the CPU milliseconds of a single change."""
    used = where.processor_seconds()
    keys = list(statuses)
    for number in range(CHANGES):
        key = keys[number // 2 % len(keys)]
        await where.etcd.put(key, _moved(statuses[key]))
        await asyncio.sleep(APART)
    await asyncio.sleep(REST)
    return (where.processor_seconds() - used) / CHANGES * 1000


async def _burst(where: Setting, statuses: dict[str, stored_pb2.AssignmentStatus]) -> float:
    """Return the CPU milliseconds per change when all nodes change at once."""
    puts = [Put(key, _moved(status)) for key, status in statuses.items()]
    used = where.processor_seconds()
    await put_all(where.etcd, puts)
    await asyncio.sleep(REST)
    return (where.processor_seconds() - used) / len(puts) * 1000


async def _at(size: int, runs: int) -> tuple[list[float], list[float]]:
    async with setting(size) as where:
        statuses = await _settle(where)
        single = [await _one_by_one(where, statuses) for _ in range(runs)]
        # An even number, so that every measurement ends settled.
        burst = [await _burst(where, statuses) for _ in range(2 * runs)]
        return single, burst


async def figures(runs: int, *, sizes: tuple[int, ...] = SIZES) -> list[Figure]:
    """Compare all sizes with the smallest: the ratio should stay constant."""
    started = time.monotonic()
    measured = {size: await _at(size, runs) for size in sizes}
    print(f"status changes: {time.monotonic() - started:.0f} s")
    base, base_burst = measured[sizes[0]]
    results = []
    for size, (single, burst) in measured.items():
        against = f"{sizes[0]} nodes" if size != sizes[0] else ""
        results += [
            Figure(
                f"controller: processor for one status change, {size} nodes", "ms", single,
                against, base if against else (), limit=1.5 if against else None,
            ),
            Figure(
                f"controller: processor for one of {size} at once", "ms", burst,
                against, base_burst if against else (), limit=1.5 if against else None,
            ),
        ]  # fmt: skip
    return results
