"""What one change of a status costs the controller, by the number of nodes: processor time over changes."""

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
#: Between two changes: longer than the controller gathers, so that each is a round of its own.
APART = 0.05
#: After the last change, for the controller to come to rest.
REST = 1.5


async def _settle(where: Setting) -> dict[str, stored_pb2.AssignmentStatus]:
    """A release of one service that has settled on all nodes, as far as the records say; the statuses by key."""
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
    """What an agent says that has done all it was told."""
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
    """Its service has ended and is started again, or the other way round: a change that reaches the Rollout."""
    (service,) = status.services
    up = service.phase == stored_pb2.ServiceStatus.RUNNING
    service.phase = stored_pb2.ServiceStatus.BACKOFF if up else stored_pb2.ServiceStatus.RUNNING
    service.reason = "has ended with exit code 1" if up else ""
    status.phase = stored_pb2.AssignmentStatus.CONVERGING if up else stored_pb2.AssignmentStatus.SETTLED
    return encode(status)


async def _one_by_one(where: Setting, statuses: dict[str, stored_pb2.AssignmentStatus]) -> float:
    """Milliseconds of processor for a change that comes by itself."""
    used = where.processor_seconds()
    keys = list(statuses)
    for number in range(CHANGES):
        key = keys[number // 2 % len(keys)]
        await where.etcd.put(key, _moved(statuses[key]))
        await asyncio.sleep(APART)
    await asyncio.sleep(REST)
    return (where.processor_seconds() - used) / CHANGES * 1000


async def _burst(where: Setting, statuses: dict[str, stored_pb2.AssignmentStatus]) -> float:
    """Milliseconds of processor for a change that comes together with one of every other node."""
    puts = [Put(key, _moved(status)) for key, status in statuses.items()]
    used = where.processor_seconds()
    await put_all(where.etcd, puts)
    await asyncio.sleep(REST)
    return (where.processor_seconds() - used) / len(puts) * 1000


async def _at(size: int, runs: int) -> tuple[list[float], list[float]]:
    async with setting(size) as where:
        statuses = await _settle(where)
        single = [await _one_by_one(where, statuses) for _ in range(runs)]
        # An even number of times, so that all is settled again at the end of each.
        burst = [await _burst(where, statuses) for _ in range(2 * runs)]
        return single, burst


async def figures(runs: int, *, sizes: tuple[int, ...] = SIZES) -> list[Figure]:
    """Each size against the smallest: the ratio is what is to stay where it is."""
    started = time.monotonic()
    measured = {size: await _at(size, runs) for size in sizes}
    print(f"status changes: {time.monotonic() - started:.0f} s")
    base, base_burst = measured[sizes[0]]
    made = []
    for size, (single, burst) in measured.items():
        against = f"{sizes[0]} nodes" if size != sizes[0] else ""
        made += [
            Figure(
                f"controller: processor for one status change, {size} nodes", "ms", single,
                against, base if against else (), limit=1.5 if against else None,
            ),
            Figure(
                f"controller: processor for one of {size} at once", "ms", burst,
                against, base_burst if against else (), limit=1.5 if against else None,
            ),
        ]  # fmt: skip
    return made
