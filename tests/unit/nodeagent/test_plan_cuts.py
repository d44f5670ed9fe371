"""Every plan may be cut at every action, by a crash that also forgets what was not on disk, and still converges."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest

from devopsellence.api.v1 import workload_pb2
from devopsellence.nodeagent.model import Container, Network, State
from devopsellence.nodeagent.spec import Desired
from tests.unit.nodeagent.support import ENV, REMOTE, Engine, container, service, want, wanted

OLD, NEW = service(version="1"), service(version="2")
OLD_WEB, NEW_WEB = service(version="1", check=True), service(version="2", check=True)
OLD_DB, NEW_DB = service("db", "1", volume=True), service("db", "2", volume=True)
REMOTE_WEB = service(image=REMOTE)
ROUNDS = 400


def engine(*there: Container, network: bool = True) -> Engine:
    made = Engine(network=Network("net-1", want().network, str(ENV)) if network else None)
    made.add(*there)
    return made


def missing() -> Engine:
    made = engine()
    made.missing.add(REMOTE)
    return made


SCENARIOS: dict[str, tuple[Callable[[], Engine], Desired]] = {
    "from nothing": (lambda: engine(network=False), want(OLD, OLD_DB)),
    "a new version": (lambda: engine(container(OLD)), want(NEW)),
    "a new version with a check": (lambda: engine(container(OLD_WEB)), want(NEW_WEB)),
    "a new version with volumes": (lambda: engine(container(OLD_DB)), want(NEW_DB)),
    "both at once, and one service less": (
        lambda: engine(container(OLD_WEB), container(OLD_DB), container(service("gone"))),
        want(NEW_WEB, NEW_DB),
    ),
    "back to the version before, in the middle": (
        lambda: engine(container(OLD_WEB), container(NEW_WEB, State.CREATED)),
        want(OLD_WEB),
    ),
    "an image that has to be pulled": (missing, want(REMOTE_WEB)),
    "everything ended, the network gone": (
        lambda: engine(container(OLD_WEB, State.EXITED), container(OLD_DB, State.EXITED), network=False),
        want(OLD_WEB, OLD_DB),
    ),
    "leftovers of three versions": (
        lambda: engine(
            container(OLD_DB),
            container(service("db", "0", volume=True), State.CREATED),
            container(service("db", "00", volume=True), State.EXITED),
        ),
        want(NEW_DB),
    ),
    "a tombstone": (lambda: engine(container(OLD_WEB), container(OLD_DB)), want(removed=True)),
}


def converge(machine: Engine, goal: Desired) -> None:
    for _ in range(ROUNDS):
        machine.step(goal)
        check(machine)
        machine.mono += 0.5
        made = machine.plan(goal)
        if made.removed or (not made.actions and all(each.settled for each in made.services)):
            return
    raise AssertionError(f"no end after {ROUNDS} rounds: {machine.history[-10:]}")


def check(machine: Engine) -> None:
    """What must hold at every moment."""
    up = [each.service for each in machine.containers.values() if each.up]
    assert up.count("db") <= 1, "two containers share a volume"


def finished(machine: Engine, goal: Desired) -> None:
    """What must hold in the end: what is assigned runs, and nothing else is there."""
    assert sorted(each.hash for each in machine.containers.values()) == sorted(
        each.hash for each in goal.services.values()
    )
    assert all(each.up for each in machine.containers.values())
    assert (machine.network is None) == goal.removed


def actions_of(start: Callable[[], Engine], goal: Desired) -> int:
    machine = start()
    converge(machine, goal)
    finished(machine, goal)
    return len(machine.history)


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("forgets", [False, True], ids=["remembers", "forgets"])
def test_cut_anywhere_it_converges(scenario: str, forgets: bool) -> None:
    start, goal = SCENARIOS[scenario]
    for cut in range(actions_of(start, goal) + 1):
        machine = start()
        while len(machine.history) < cut:
            made = machine.plan(goal)
            firsts = [made.network[:1], *(each.actions[:1] for each in made.services)]
            for action in [each[0] for each in firsts if each][: cut - len(machine.history)]:
                machine.carry_out(action, goal)
                check(machine)
            machine.mono += 0.5
        if forgets:
            machine.memories.clear()
        converge(machine, goal)
        finished(machine, goal)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_prefix_of_the_first_plan_converges(scenario: str) -> None:
    start, goal = SCENARIOS[scenario]
    whole = start().plan(goal).actions
    for cut in range(len(whole) + 1):
        machine = start()
        for action in whole[:cut]:
            machine.carry_out(action, goal)
            check(machine)
        converge(machine, goal)
        finished(machine, goal)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_goal_may_change_at_every_action(scenario: str) -> None:
    start, first = SCENARIOS[scenario]
    goal = want(service(version="3", check=True), service("db", "3", volume=True), release=3)
    for cut in range(actions_of(start, first) + 1):
        machine = start()
        for _ in range(cut):
            if not machine.step(first):
                break
            machine.mono += 0.5
        converge(machine, goal)
        finished(machine, goal)


@pytest.mark.parametrize(("old", "new"), [(OLD, NEW), (OLD_WEB, NEW_WEB)], ids=["without a check", "with a check"])
def test_without_volumes_something_serves_at_every_moment(old: workload_pb2.Service, new: workload_pb2.Service) -> None:
    machine = engine(container(old))
    goal = want(new)
    for _ in range(50):
        machine.step(goal)
        assert any(each.up for each in machine.containers.values())
        machine.mono += 0.1
    finished(machine, goal)


def test_a_new_version_that_never_becomes_healthy_never_takes_over() -> None:
    machine = engine(container(OLD_WEB))
    goal = want(NEW_WEB)
    machine.sick.add(wanted(NEW_WEB).hash)
    old = container(OLD_WEB).id
    failed = False
    for _ in range(400):
        machine.step(goal)
        assert machine.containers[old].up
        machine.mono += 0.5
        (found,) = machine.plan(goal).services
        failed = failed or found.failed
        assert found.failed or not failed, "the failure was forgotten while nothing got better"
    starts = [each for each in machine.history if each.kind == "start"]
    assert failed
    assert 3 <= len(starts) <= 8, "it is tried again, and not all the time"
    machine.sick.clear()
    machine.mono += 400
    converge(machine, goal)
    finished(machine, goal)


def test_a_crash_loop_slows_down_and_fails_after_three_ends() -> None:
    machine = engine()
    goal = want(OLD)
    machine.ends.add(wanted(OLD).hash)
    failed_after: list[int] = []
    for _ in range(1200):
        machine.step(goal)
        machine.mono += 0.1
        (found,) = machine.plan(goal).services
        if found.failed:
            failed_after.append(len([each for each in machine.history if each.kind == "examine"]))
    starts = [each for each in machine.history if each.kind == "start"]
    # 120 s: at once, at once again, then after 1, 2, 4, 8, 16, 32 and, not yet over, 64 s.
    assert 8 <= len(starts) <= 9
    assert failed_after[0] == 3
    machine.ends.clear()
    machine.mono += 400
    for _ in range(40):
        machine.step(goal)
        machine.mono += 0.5
    assert machine.plan(goal).services[0].settled


def test_the_same_input_gives_the_same_plan() -> None:
    machine = engine(container(OLD_WEB), container(OLD_DB))
    goal = want(NEW_WEB, NEW_DB)
    assert machine.plan(goal) == copy.deepcopy(machine).plan(goal)
