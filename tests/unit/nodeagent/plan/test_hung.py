"""Hung containers in a plan."""

from __future__ import annotations

from dataclasses import replace

from devopsellence.api.v1 import stored_pb2, workload_pb2
from devopsellence.nodeagent.docker.model import ContainerState, Network
from devopsellence.nodeagent.plan.hung import FAIL_SECONDS, hung_containers
from devopsellence.nodeagent.plan.spec import resolve_assignment
from devopsellence.nodeagent.plan.task import plan_task
from devopsellence.nodeagent.plan.task_run import TaskRun
from tests.unit.nodeagent.planning import ENV, UID, FakeEngine, container, desired_of, desired_service, service

WEB, REDIS = service("web", check=True), service("redis", check=True)
HUNG = container(REDIS)


def machine(*more: str) -> FakeEngine:
    engine = FakeEngine(network=Network("net-1", desired_of().network, str(ENV)))
    engine.add(container(WEB, ContainerState.EXITED), HUNG, *(container(service(name)) for name in more))
    engine.hung[HUNG.id] = engine.mono
    return engine


def test_hung_container_is_named_with_a_remedy() -> None:
    verdict = hung_containers([HUNG], {HUNG.id: 10.0}, 10.0 + FAIL_SECONDS - 1)
    assert HUNG.name in verdict.reason
    assert f"pkill -KILL -f 'containerd-shim.* -id {HUNG.id[:12]}'" in verdict.reason
    assert (verdict.failed, verdict.wake) == (False, 10.0 + FAIL_SECONDS)
    verdict = hung_containers([HUNG], {HUNG.id: 10.0}, 10.0 + FAIL_SECONDS)
    assert (verdict.failed, verdict.wake) == (True, None)


def test_services_besides_a_hung_container_go_on() -> None:
    engine, goal = machine("gone"), desired_of(WEB, REDIS)
    for _ in range(20):
        engine.step(goal)
        engine.mono += 0.5
    services = {planned.service: planned for planned in engine.plan(goal).services}
    assert services["web"].settled
    assert "gone" not in services
    assert (services["redis"].settled, services["redis"].failed) == (False, False)
    assert services["redis"].wake == engine.hung[HUNG.id] + FAIL_SECONDS
    engine.mono += FAIL_SECONDS
    (redis,) = (planned for planned in engine.plan(goal).services if planned.service == "redis")
    assert redis.failed
    assert [one.id for one in redis.serving] == [HUNG.id], "requests still go there"


def test_new_version_beside_a_hung_container_starts_and_fails() -> None:
    new = service("redis", "2", check=True)
    engine, goal = machine(), desired_of(WEB, new)
    for _ in range(200):
        engine.step(goal)
        engine.mono += 0.5
    (redis,) = (planned for planned in engine.plan(goal).services if planned.service == "redis")
    assert redis.failed
    assert redis.current is not None
    assert redis.current.hash == desired_service(new).hash


def test_hung_release_task_is_left_alone_and_named() -> None:
    task = workload_pb2.Task(name="release", service="web", command=["migrate"])
    goal = resolve_assignment(
        stored_pb2.Assignment(node="n1", node_uid=UID, generation=1, release=1, services=[WEB], task=task), ENV, UID
    )
    assert goal.task_service is not None
    ran = replace(container(WEB, ContainerState.EXITED), task="release", hash=goal.task_service.hash, release=1)
    run = TaskRun(1, "release", ran.hash, container=ran.id)
    engine = FakeEngine(network=Network("net-1", goal.network, str(ENV)))
    engine.add(ran)
    before = plan_task(goal, engine.observe(), (), {run.key: run}, {}, engine.now)
    assert before.actions
    engine.hung[ran.id] = 0.0
    planned = plan_task(goal, engine.observe(), (), {run.key: run}, {}, engine.now)
    assert not planned.actions
    assert planned.status is not None
    assert ran.name in planned.status.reason
