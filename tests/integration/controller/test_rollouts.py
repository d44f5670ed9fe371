"""Rollouts in batches with the real controller and a real etcd: forward, back, and over a change of leader."""

from __future__ import annotations

import signal

import pytest

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.store.codec import decode
from tests.support.controller import REF, EnvironmentDriver, StartController
from tests.unit.controller.builders import crashed

pytestmark = pytest.mark.etcd
NODES = ("n1", "n2", "n3")
SETTLED = pb.AssignmentStatus.SETTLED


async def arrive(environment: EnvironmentDriver, name: str, number: int) -> pb.Assignment:
    """``name`` settles at release ``number`` as soon as it is assigned that."""
    assignment = await environment.assignment(name, lambda one: one.release == number)
    await environment.report(assignment, SETTLED)
    return assignment


async def begin(environment: EnvironmentDriver) -> None:
    """All nodes have settled at release 1; release 2, one node at a time, has just been written."""
    for name in NODES:
        await environment.add_node(name, "web")
    await environment.release(1, web="web")
    await environment.attach(*NODES, latest=1)
    for name in NODES:
        await arrive(environment, name, 1)
    await environment.rollout(lambda one: one.release == 1 and one.phase == pb.Rollout.SETTLED)
    await environment.release(2, parallel="1", web="web")
    await environment.attach(*NODES, latest=2)


async def told(environment: EnvironmentDriver, release: int) -> list[str]:
    items = (await environment.etcd.list(environment.keys.events_prefix(REF))).items
    events = [decode(pb.Event, item.key, item.value) for item in items]
    return sorted(event.code for event in events if event.release == release and event.code.startswith("rollout"))


async def test_batches_are_sequential_and_cut_off_node_skips_to_newest(
    start: StartController, environment: EnvironmentDriver
) -> None:
    start()
    await begin(environment)
    await arrive(environment, "n1", 2)
    await environment.assignment("n2", lambda one: one.release == 2)
    assert (await environment.assignment("n3")).release == 1
    await environment.etcd.delete(environment.keys.heartbeat("n3"))
    await arrive(environment, "n2", 2)
    settled = await environment.rollout(lambda one: one.release == 2 and one.phase == pb.Rollout.SETTLED)
    assert (settled.last_settled, settled.target, settled.counts.unreachable) == (1, 2, 1)
    await environment.release(3, parallel="1", web="web")
    await environment.attach(*NODES, latest=3)
    for name in ("n1", "n2"):
        await arrive(environment, name, 3)
    await environment.rollout(lambda one: one.release == 3 and one.phase == pb.Rollout.SETTLED)
    assert (await environment.assignment("n3")).release == 1
    await environment.add_node("n3", "web")
    await arrive(environment, "n3", 3)
    await environment.rollout(lambda one: one.counts.settled == 3)


async def test_bad_release_rolls_back_although_leader_is_killed_on_way(
    start: StartController, environment: EnvironmentDriver
) -> None:
    first = start()
    await environment.leader("c0")
    second = start()
    await second.logged("standing by")
    await begin(environment)
    untouched = await environment.assignment("n3")
    await arrive(environment, "n1", 2)
    failing = await environment.assignment("n2", lambda one: one.release == 2)
    await environment.report(failing, pb.AssignmentStatus.FAILED, crashed("web", code=3, failed=True))
    rollout = await environment.rollout(lambda one: one.phase == pb.Rollout.ROLLING_BACK)
    assert (rollout.target, rollout.halted) == (1, 'service "web" on n2: ended by itself (exit code 3)')
    await environment.assignment("n2", lambda one: one.release == 1)
    assert (await environment.assignment("n1")).release == 2, "it serves, and waits its turn"

    first.send(signal.SIGKILL)
    await environment.leader("c1")
    await arrive(environment, "n2", 1)
    await arrive(environment, "n1", 1)
    rollout = await environment.rollout(lambda one: one.phase == pb.Rollout.FAILED)
    assert rollout.reason == f"{rollout.halted}; release 1 runs again"
    assert await environment.assignment("n3") == untouched
    assert await told(environment, 2) == [
        "rollout_failed",
        "rollout_rolled_back",
        "rollout_rolling_back",
        "rollout_started",
    ]

    await environment.release(3, web="web")
    await environment.attach(*NODES, latest=3)
    for name in NODES:
        await arrive(environment, name, 3)
    rollout = await environment.rollout(lambda one: one.release == 3 and one.phase == pb.Rollout.SETTLED)
    assert [(outcome.release, outcome.phase) for outcome in rollout.history] == [
        (2, pb.Rollout.FAILED),
        (1, pb.Rollout.SETTLED),
    ]
