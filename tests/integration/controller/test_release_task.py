"""The release task and secrets: a real controller, a real etcd; operators and agents are played by the test."""

from __future__ import annotations

import signal
from functools import partial

import pytest

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.store.codec import decode
from tests.support.controller import REF, EnvironmentDriver, StartController
from tests.unit.controller.builders import app, migration, release, secret, service

pytestmark = pytest.mark.etcd
SETTLED = pb.AssignmentStatus.SETTLED
NODES = ("n1", "n2")
REDIS = service("redis", "worker")


def _is_at(number: int, assignment: pb.Assignment) -> bool:
    return assignment.release == number


async def settle(environment: EnvironmentDriver, number: int) -> None:
    """Both nodes report that they have settled at release ``number``."""
    for name in NODES:
        assignment = await environment.assignment(name, lambda one: one.release == number and not one.HasField("task"))
        await environment.report(assignment, SETTLED)
    await environment.rollout(lambda one: one.release == number and one.phase == pb.Rollout.SETTLED)


async def begin(environment: EnvironmentDriver) -> None:
    """Both nodes have settled at release 1, which has no task."""
    for name in NODES:
        await environment.add_node(name, "web", "worker")
    await environment.deploy(release(1, REDIS, app(1)), *NODES)
    await settle(environment, 1)


async def test_task_runs_after_supporting_services_and_before_app(
    start: StartController, environment: EnvironmentDriver
) -> None:
    start()
    await begin(environment)
    await environment.deploy(release(2, REDIS, app(2), task=migration()), *NODES)
    told = await environment.assignment("n1", lambda one: one.HasField("task"))
    assert [(service.name, service.image.reference) for service in told.services] == [
        ("redis", "app:1"),
        ("web", "app:1"),
    ]
    assert told.task_service == app(2)
    await environment.report_task(told, pb.TaskStatus.RUNNING)
    await environment.rollout(lambda one: one.task.phase == pb.TaskStatus.RUNNING)
    assert (await environment.assignment("n2")).release == 1
    await environment.report_task(told, pb.TaskStatus.SUCCEEDED)
    await settle(environment, 2)

    await environment.deploy(release(3, REDIS, app(3), task=migration()), *NODES)
    told = await environment.assignment("n1", lambda one: one.release == 3)
    await environment.report_task(told, pb.TaskStatus.FAILED)
    await environment.rollout(lambda one: one.release == 3 and one.phase == pb.Rollout.ROLLING_BACK)
    back = await environment.assignment("n1", lambda one: one.release == 2)
    await environment.report(back, SETTLED)
    rollout = await environment.rollout(lambda one: one.release == 3 and one.phase == pb.Rollout.FAILED)
    assert rollout.reason.startswith('the release task "release" failed on n1')
    assert (rollout.target, rollout.task.phase) == (2, pb.TaskStatus.FAILED)
    assert (await environment.assignment("n2")).release == 2
    items = (await environment.etcd.list(environment.keys.events_prefix(REF))).items
    told_of = [decode(pb.Event, item.key, item.value).code for item in items]
    assert [code for code in told_of if code.startswith("release_task")] == [
        "release_task_started",
        "release_task_succeeded",
        "release_task_failed",
    ]


async def test_next_leader_goes_on_with_task_from_etcd_alone(
    start: StartController, environment: EnvironmentDriver
) -> None:
    controllers = [start()]
    await environment.leader("c0")
    await begin(environment)

    async def hand_over() -> None:
        controllers.append(start())
        await controllers[-1].logged("standing by")
        controllers[-2].send(signal.SIGKILL)
        await environment.leader(f"c{len(controllers) - 1}")

    await environment.deploy(release(2, REDIS, app(2), task=migration()), *NODES)
    assignment = await environment.assignment("n1", lambda one: one.HasField("task"))
    await hand_over()
    await environment.report_task(assignment, pb.TaskStatus.RUNNING)
    await environment.rollout(lambda one: one.task.phase == pb.TaskStatus.RUNNING)
    await hand_over()
    await environment.report_task(assignment, pb.TaskStatus.SUCCEEDED)
    await settle(environment, 2)
    rollout = await environment.rollout(lambda one: one.task.phase == pb.TaskStatus.SUCCEEDED)
    assert rollout.task.node == "n1"
    assert await environment.assignment("n1") == await environment.assignment("n1", lambda one: one.generation == 3)


async def test_release_that_follows_its_secret_at_once_has_it(
    start: StartController, environment: EnvironmentDriver
) -> None:
    keys = environment.keys
    controller = start()
    await begin(environment)
    for number in range(2, 12):
        await environment.write(keys.secret(REF, "web", "A"), secret("web", "A", *range(2, number + 1)))
        await environment.deploy(release(number, REDIS, app(1, A=number)), *NODES)
        found = await environment.assignment("n1", partial(_is_at, number))
        assert [(secret.name, secret.version) for secret in found.secrets] == [("A", number)]

    renewed = secret("web", "A", *range(2, 12), recipients="n1,n2")
    await environment.write(keys.secret(REF, "web", "A"), renewed)
    found = await environment.assignment("n2", lambda one: bool(one.secrets) and one.secrets[0].age.endswith("n1,n2"))
    await environment.etcd.put(keys.secret(REF, "web", "A"), b"nonsense")
    await environment.rollout(lambda one: keys.secret(REF, "web", "A") in one.reason)
    assert await environment.assignment("n2") == found
    await environment.etcd.delete(keys.secret(REF, "web", "A"))
    await environment.rollout(lambda one: "devopsellence secret set A --service web --stdin" in one.reason)
    assert not [line for line in controller.lines("not reconciled") if line["level"] == "error"]
    assert " for n1" not in controller.log.read_text(), "a ciphertext was logged"
