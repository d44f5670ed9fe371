"""Every plan, cut at every action by a crash that also loses unsaved state, converges."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from devopsellence.api.v1 import workload_pb2
from devopsellence.nodeagent.docker.model import Container, ContainerSettings, ContainerState, Network
from devopsellence.nodeagent.docker.ownership import image_volume
from devopsellence.nodeagent.plan.history import NO_HISTORY
from devopsellence.nodeagent.plan.spec import Desired
from tests.unit.nodeagent.planning import (
    COMPLETED,
    ENV,
    HEALTHY,
    REMOTE,
    STARTED,
    UID,
    DrainingRouter,
    FakeEngine,
    container,
    desired_of,
    desired_service,
    service,
)

OLD, NEW = service(version="1"), service(version="2")
OLD_WEB, NEW_WEB = service(version="1", check=True), service(version="2", check=True)
OLD_DB, NEW_DB = service("db", "1", volume=True), service("db", "2", volume=True)
REMOTE_WEB = service(image=REMOTE)
REDIS, NEW_REDIS = service("redis", check=True), service("redis", "2", check=True)
APP = service("app", after={"redis": HEALTHY})
NEW_APP = service("app", "2", check=True, after={"redis": HEALTHY, "job": COMPLETED})
DB_AFTER = service("db", "2", volume=True, after={"redis": STARTED})
JOB, NEW_JOB = service("job"), service("job", "2")
AFTER_JOB = service("app", "3", after={"job": COMPLETED})
ROUNDS = 400


def engine(*there: Container, network: bool = True) -> FakeEngine:
    machine = FakeEngine(network=Network("net-1", desired_of().network, str(ENV)) if network else None)
    machine.add(*there)
    return machine


def missing() -> FakeEngine:
    machine = engine()
    machine.missing.add(REMOTE)
    return machine


def jobs(*there: Container) -> FakeEngine:
    """Jobs end by themselves, well."""
    machine = engine(*there)
    machine.done |= {desired_service(JOB).hash, desired_service(NEW_JOB).hash}
    return machine


def lapsed(*there: Container) -> FakeEngine:
    """All but the last one has stopped to pass its checks."""
    machine = engine(*there)
    machine.became_unhealthy |= {container.id for container in there[:-1]}
    for old in there:
        machine.memories[old.service, old.hash] = NO_HISTORY.running(old)
    return machine


def declaring(*there: Container) -> FakeEngine:
    """The image of ``redis`` declares a volume."""
    machine = engine()
    machine.declaring.add("redis")
    volume = image_volume(UID, ENV, "redis", "/data")
    machine.volumes[volume.name] = volume
    machine.add(*(replace(each, volumes={"/data": volume.name}) if each.service == "redis" else each for each in there))
    return machine


SCENARIOS: dict[str, tuple[Callable[[], FakeEngine], Desired]] = {
    "from nothing": (lambda: engine(network=False), desired_of(OLD, OLD_DB)),
    "a new version": (lambda: engine(container(OLD)), desired_of(NEW)),
    "a new version with a check": (lambda: engine(container(OLD_WEB)), desired_of(NEW_WEB)),
    "a new version with volumes": (lambda: engine(container(OLD_DB)), desired_of(NEW_DB)),
    "both at once, and one service less": (
        lambda: engine(container(OLD_WEB), container(OLD_DB), container(service("gone"))),
        desired_of(NEW_WEB, NEW_DB),
    ),
    "back to the version before, in the middle": (
        lambda: engine(container(OLD_WEB), container(NEW_WEB, ContainerState.CREATED)),
        desired_of(OLD_WEB),
    ),
    "an image that has to be pulled": (missing, desired_of(REMOTE_WEB)),
    "everything ended, the network gone": (
        lambda: engine(
            container(OLD_WEB, ContainerState.EXITED), container(OLD_DB, ContainerState.EXITED), network=False
        ),
        desired_of(OLD_WEB, OLD_DB),
    ),
    "leftovers of three versions": (
        lambda: engine(
            container(OLD_DB),
            container(service("db", "0", volume=True), ContainerState.CREATED),
            container(service("db", "00", volume=True), ContainerState.EXITED),
        ),
        desired_of(NEW_DB),
    ),
    "one after another, from nothing": (lambda: engine(network=False), desired_of(APP, REDIS, DB_AFTER)),
    "new versions, one after another": (
        lambda: jobs(container(APP), container(REDIS), container(OLD_DB)),
        desired_of(NEW_APP, NEW_REDIS, JOB, DB_AFTER),
    ),
    "one that is to complete": (jobs, desired_of(AFTER_JOB, JOB)),
    "one that is to complete, again": (
        lambda: jobs(container(JOB, ContainerState.EXITED, finished="t", code=0), container(AFTER_JOB)),
        desired_of(AFTER_JOB, NEW_JOB),
    ),
    "all went down": (
        lambda: engine(container(APP, ContainerState.EXITED), container(REDIS, ContainerState.EXITED), network=False),
        desired_of(APP, REDIS),
    ),
    "healthy no more": (
        lambda: lapsed(container(OLD_WEB), container(OLD_DB), container(REDIS)),
        desired_of(OLD_WEB, REDIS, OLD_DB),
    ),
    "healthy no more, and there is a newer version": (
        lambda: lapsed(container(REDIS), container(APP)),
        desired_of(NEW_REDIS, APP),
    ),
    "a tombstone for what depends on one another": (
        lambda: engine(container(APP), container(REDIS), container(service("x", after={"app": STARTED}))),
        desired_of(removed=True),
    ),
    "a tombstone for what says that it goes round in a circle": (
        lambda: engine(container(APP), container(service("redis", after={"app": STARTED}))),
        desired_of(removed=True),
    ),
    "an image that declares a volume": (
        lambda: declaring(container(REDIS), container(OLD_WEB)),
        desired_of(NEW_REDIS, NEW_WEB),
    ),
    "an image that declares a volume, with a start that waits": (
        lambda: declaring(container(service("redis")), container(OLD)),
        desired_of(service("redis", "2", after={"web": HEALTHY}), NEW_WEB),
    ),
    "a service whose image declares a volume leaves": (
        lambda: declaring(container(REDIS), container(OLD_WEB)),
        desired_of(NEW_WEB),
    ),
    "a tombstone with a volume that an image declares": (
        lambda: declaring(container(REDIS), container(service("redis", "0"), ContainerState.EXITED)),
        desired_of(removed=True),
    ),
    "a tombstone": (lambda: engine(container(OLD_WEB), container(OLD_DB)), desired_of(removed=True)),
}


def converge(machine: FakeEngine, goal: Desired) -> None:
    for _ in range(ROUNDS):
        machine.step(goal)
        check(machine)
        machine.mono += 0.5
        planned = machine.plan(goal)
        if planned.removed or (not planned.actions and all(service.settled for service in planned.services)):
            return
    raise AssertionError(f"no end after {ROUNDS} rounds: {machine.history[-10:]}")


def check(machine: FakeEngine) -> None:
    """Assert everything that holds at every moment."""
    up = [container.service for container in machine.containers.values() if container.up]
    assert up.count("db") <= 1, "two containers share a volume"
    mounted = [name for container in machine.containers.values() if container.up for name in container.volumes.values()]
    assert len(mounted) == len(set(mounted)), "two containers share a volume that their image declares"
    for action in machine.history[-1:]:
        if action.kind == "start" and action.hash in (desired_service(APP).hash, desired_service(NEW_APP).hash):
            assert "redis" in up, "it was started before what it depends on"


def finished(machine: FakeEngine, goal: Desired) -> None:
    """Assert the end: all assigned services run, and nothing else is left."""
    assert sorted(container.hash for container in machine.containers.values()) == sorted(
        service.hash for service in goal.services.values()
    )
    for left in machine.containers.values():
        assert left.up != goal.services[left.service].completes, left
    assert (machine.network is None) == goal.removed
    assert {volume.service for volume in machine.volumes.values()} == machine.declaring & goal.services.keys()


def actions_of(start: Callable[[], FakeEngine], goal: Desired) -> int:
    machine = start()
    converge(machine, goal)
    finished(machine, goal)
    return len(machine.history)


ROUTES = pytest.mark.parametrize("routes", [False, True], ids=["not routed", "routed"])


def starting(scenario: str, *, routes: bool) -> tuple[Callable[[], FakeEngine], Desired]:
    """Return the start of a scenario and its goal. ``routes``: all running containers get requests."""
    start, goal = SCENARIOS[scenario]

    def routed() -> FakeEngine:
        machine = start()
        machine.router = DrainingRouter(
            routed=frozenset(container.id for container in machine.containers.values() if container.up)
        )
        return machine

    return (routed if routes else start), goal


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("forgets", [False, True], ids=["remembers", "forgets"])
@ROUTES
def test_plan_cut_anywhere_converges(scenario: str, forgets: bool, routes: bool) -> None:
    start, goal = starting(scenario, routes=routes)
    for cut in range(actions_of(start, goal) + 1):
        machine = start()
        while len(machine.history) < cut:
            planned = machine.plan(goal)
            firsts = [planned.network[:1], *(service.actions[:1] for service in planned.services)]
            for action in [first[0] for first in firsts if first][: cut - len(machine.history)]:
                machine.carry_out(action, goal)
                check(machine)
            machine.mono += 0.5
        if forgets:
            machine.memories.clear()
        converge(machine, goal)
        finished(machine, goal)


@pytest.mark.parametrize("scenario", SCENARIOS)
@ROUTES
def test_every_prefix_of_the_first_plan_converges(scenario: str, routes: bool) -> None:
    start, goal = starting(scenario, routes=routes)
    whole = start().plan(goal).actions
    for cut in range(len(whole) + 1):
        machine = start()
        for action in whole[:cut]:
            machine.carry_out(action, goal)
            check(machine)
        converge(machine, goal)
        finished(machine, goal)


@pytest.mark.parametrize("scenario", SCENARIOS)
@ROUTES
def test_goal_changed_at_every_action_converges(scenario: str, routes: bool) -> None:
    start, first = starting(scenario, routes=routes)
    goal = desired_of(service(version="3", check=True), service("db", "3", volume=True), release=3)
    for cut in range(actions_of(start, first) + 1):
        machine = start()
        for _ in range(cut):
            machine.step(first)
            machine.mono += 0.5
        converge(machine, goal)
        finished(machine, goal)


@pytest.mark.parametrize(("old", "new"), [(OLD, NEW), (OLD_WEB, NEW_WEB)], ids=["without a check", "with a check"])
def test_stateless_service_always_serves(old: workload_pb2.Service, new: workload_pb2.Service) -> None:
    machine = engine(container(old))
    goal = desired_of(new)
    for _ in range(50):
        machine.step(goal)
        assert any(container.up for container in machine.containers.values())
        machine.mono += 0.1
    finished(machine, goal)


@pytest.mark.parametrize(("old", "new"), [(OLD, NEW), (OLD_WEB, NEW_WEB)], ids=["without a check", "with a check"])
def test_stateless_service_always_has_a_target(old: workload_pb2.Service, new: workload_pb2.Service) -> None:
    """Also when the agent is killed at any moment, and knows nothing any more but what is routed to."""
    before, goal = container(old), desired_of(new)
    for cut in range(50):
        machine = engine(before)
        machine.router = DrainingRouter(routed=frozenset([before.id]))
        for round_ in range(50):
            if round_ == cut:
                machine.memories.clear()
            machine.step(goal)
            assert len(machine.router.routed) == 1
            assert all(machine.containers[identity].up for identity in machine.router.routed)
            machine.mono += 0.1
        finished(machine, goal)


def test_no_router_holds_no_container() -> None:
    """The old one goes in the very turn in which the new one has proved itself."""
    machine, goal = engine(container(OLD)), desired_of(NEW)
    machine.memories["web", desired_service(OLD).hash] = NO_HISTORY.running(container(OLD))
    for _ in range(3):
        machine.step(goal)
        machine.mono += 1.0
    assert [action.kind for action in machine.history] == ["create", "start", "stop"]


def test_unhealthy_new_version_never_takes_over() -> None:
    machine = engine(container(OLD_WEB))
    goal = desired_of(NEW_WEB)
    machine.sick.add(desired_service(NEW_WEB).hash)
    old = container(OLD_WEB).id
    failed = False
    for _ in range(400):
        machine.step(goal)
        assert machine.containers[old].up
        machine.mono += 0.5
        (service_plan,) = machine.plan(goal).services
        failed = failed or service_plan.failed
        assert service_plan.failed or not failed, "the failure was forgotten while nothing got better"
    starts = [action for action in machine.history if action.kind == "start"]
    assert failed
    assert 3 <= len(starts) <= 8, "it is tried again, and not all the time"
    machine.sick.clear()
    machine.mono += 400
    converge(machine, goal)
    finished(machine, goal)


def test_crash_loop_backs_off_and_fails_after_three_exits() -> None:
    machine = engine()
    goal = desired_of(OLD)
    machine.ends.add(desired_service(OLD).hash)
    failed_after: list[int] = []
    for _ in range(1200):
        machine.step(goal)
        machine.mono += 0.1
        (service_plan,) = machine.plan(goal).services
        if service_plan.failed:
            failed_after.append(len([action for action in machine.history if action.kind == "examine"]))
    starts = [action for action in machine.history if action.kind == "start"]
    # 120 s: at once, at once again, then after 1, 2, 4, 8, 16, 32 and, not yet over, 64 s.
    assert 8 <= len(starts) <= 9
    assert failed_after[0] == 3
    machine.ends.clear()
    machine.mono += 400
    for _ in range(140):
        machine.step(goal)
        machine.mono += 0.5
    assert machine.plan(goal).services[0].settled
    assert machine.plan(goal).services[0].lasted


def test_removal_follows_reverse_dependency_order() -> None:
    machine = engine(container(APP), container(REDIS), container(service("x", after={"app": STARTED})))
    converge(machine, desired_of(removed=True))
    stops = [action.service for action in machine.history if action.kind == "stop"]
    assert stops == ["x", "app", "redis"]


def test_completing_service_runs_once() -> None:
    machine, goal = jobs(), desired_of(AFTER_JOB, JOB)
    converge(machine, goal)
    machine.memories.clear()
    machine.mono += 10_000
    converge(machine, goal)
    assert [action.service for action in machine.history if action.kind == "start"] == ["job", "app"]


def test_failing_service_runs_until_it_completes() -> None:
    machine, goal = engine(), desired_of(AFTER_JOB, JOB)
    machine.ends.add(desired_service(JOB).hash)
    for _ in range(60):
        machine.step(goal)
        machine.mono += 0.5
    assert machine.plan(goal).services[1].failed
    assert not [action for action in machine.history if action.kind == "start" and action.service == "app"]
    machine.ends.clear()
    machine.done.add(desired_service(JOB).hash)
    machine.mono += 400
    converge(machine, goal)
    finished(machine, goal)


def test_flapping_service_backs_off_and_fails() -> None:
    machine, goal = engine(container(OLD_WEB)), desired_of(OLD_WEB)
    healthy_at, failed = machine.mono, False
    for _ in range(6000):
        machine.step(goal)
        # Each container is healthy for two seconds.
        machine.became_unhealthy |= {
            container.id for container in machine.containers.values() if machine.mono - container.running_since >= 2.0
        }
        failed = failed or machine.plan(goal).services[0].failed
        machine.mono += 0.1
    stops = len([action for action in machine.history if action.kind == "stop"])
    # 600 s: at once, then 10, 20, 40, 80, 160 and, not yet over, 300 s after a start.
    assert machine.mono - healthy_at > 599
    assert failed
    assert 6 <= stops <= 7


def test_replacement_is_immediate_again_after_ten_healthy_minutes() -> None:
    machine, goal = lapsed(container(OLD_WEB), container(REDIS)), desired_of(OLD_WEB, REDIS)
    converge(machine, goal)
    machine.mono += 601
    converge(machine, goal)
    assert machine.memories["web", desired_service(OLD_WEB).hash].lapses == 0
    (mine,) = [container for container in machine.containers.values() if container.service == "web"]
    machine.became_unhealthy.add(mine.id)
    machine.step(goal)
    machine.step(goal)
    assert [action.kind for action in machine.history[-2:]] == ["read_output", "stop"]


def test_same_input_gives_the_same_plan() -> None:
    machine = engine(container(OLD_WEB), container(OLD_DB))
    goal = desired_of(NEW_WEB, NEW_DB)
    assert machine.plan(goal) == copy.deepcopy(machine).plan(goal)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_engine_that_changes_nothing_is_asked_ever_less(scenario: str) -> None:
    start, goal = SCENARIOS[scenario]
    machine = start()
    machine.is_deaf = True
    end = machine.mono + 3600
    while machine.mono < end:
        machine.step(goal)
        machine.mono = max(machine.mono + 0.1, machine.plan(goal).wake or end)
    counts = Counter((action.service, action.kind, action.container, action.name) for action in machine.history)
    # In an hour: after 0, 1, 2, … 256 s, then every 300 s.
    assert max(counts.values()) <= 21
    machine.is_deaf = False
    for _ in range(3):
        machine.mono += 300
        machine.step(goal)
    converge(machine, goal)
    finished(machine, goal)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_hung_container_is_left_alone_and_recovers(scenario: str) -> None:
    start, goal = SCENARIOS[scenario]
    for hung in start().containers:
        machine = start()
        machine.hung[hung] = machine.mono
        before = machine.containers[hung]
        for _ in range(200):
            machine.step(goal)
            machine.mono += 0.5
        assert machine.containers[hung] == before
        (of_it,) = [service for service in machine.plan(goal).services if service.service == before.service]
        assert of_it.failed
        assert not of_it.settled
        assert before.name in of_it.reason
        machine.hung.clear()
        machine.mono += 300
        converge(machine, goal)
        finished(machine, goal)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_restart_policy_set_by_hand_at_every_action_is_reset(scenario: str) -> None:
    start, goal = SCENARIOS[scenario]
    by_hand = ContainerSettings(engine_restarts=True)
    for cut in range(actions_of(start, goal) + 1):
        machine = start()
        while len(machine.history) < cut:
            machine.step(goal)
            machine.mono += 0.5
        machine.add(*(replace(container, settings=by_hand) for container in machine.containers.values()))
        converge(machine, goal)
        finished(machine, goal)
        assert all(container.settings != by_hand for container in machine.containers.values())
