"""Actions that change nothing are repeated ever less, whatever the action."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from devopsellence.api.v1 import stored_pb2
from devopsellence.clock import Now
from devopsellence.nodeagent.docker.model import ContainerState, ImageVolume, Network, Observed
from devopsellence.nodeagent.plan.actions import TASK, Action, ActionKind, EnvironmentPlan, ServicePlan, TaskPlan
from devopsellence.nodeagent.plan.history import BACKOFF_CAP
from devopsellence.nodeagent.plan.repeats import RepeatedActions
from tests.unit.nodeagent.planning import ENV, container, desired_of, service

WEB = container(service(), ContainerState.EXITED, identity="c1")
SEEN = Observed((WEB,), Network("net-1", desired_of().network, str(ENV)))
START = Action(ActionKind.START, "it does not run", "web", WEB.hash, WEB.id, WEB.name)
REMOVE = replace(START, kind=ActionKind.REMOVE)
UPDATE = replace(START, kind=ActionKind.UPDATE)


def plan_of(*actions: Action) -> EnvironmentPlan:
    """Return a plan of these actions, as the planner places them."""
    web = tuple(action for action in actions if action.service == "web")
    return EnvironmentPlan(
        network=tuple(action for action in actions if not action.service),
        services=(ServicePlan("web", stored_pb2.ServiceStatus.STARTING, web),),
        task=TaskPlan(tuple(action for action in actions if action.service == TASK)),
    )


def attempts(action: Action, seconds: float) -> list[float]:
    """Return the times at which an action that changes nothing is carried out."""
    repeats, mono, times = RepeatedActions(), 0.0, []
    while mono < seconds:
        planned = repeats.hold_back(plan_of(action), SEEN, Now(mono, mono))
        if planned.actions:
            times.append(mono)
            repeats.ended(action, SEEN, Now(mono, mono))
        else:
            assert planned.wake is not None, "nothing would wake the loop"
            assert planned.wake > mono
            mono = planned.wake
    return times


@pytest.mark.parametrize("kind", ActionKind)
@pytest.mark.parametrize("service_name", ["", "web", TASK])
def test_action_that_changes_nothing_backs_off(kind: ActionKind, service_name: str) -> None:
    times = attempts(replace(START, kind=kind, service=service_name), 3600)
    waits = [after - before for before, after in pairwise(times)]
    assert waits[:9] == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert set(waits[9:]) == {BACKOFF_CAP}


def test_changed_observation_ends_the_wait() -> None:
    repeats, now = RepeatedActions(), Now(0.0, 0.0)
    for _ in range(5):
        repeats.ended(START, SEEN, now)
    assert not repeats.hold_back(plan_of(START), SEEN, now).actions
    again = Observed((replace(WEB, finished_at="later"),), SEEN.network)
    assert repeats.hold_back(plan_of(START), again, now).actions
    assert repeats.hold_back(plan_of(REMOVE), SEEN, now).actions, "another action"


def test_removed_volume_ends_the_wait() -> None:
    repeats, now, volume = RepeatedActions(), Now(0.0, 0.0), ImageVolume("v", str(ENV), "web", "/data")
    action = Action(ActionKind.REMOVE_VOLUME, "because", "web", name="v")
    seen = replace(SEEN, containers=(), image_volumes=(volume,))
    repeats.ended(action, seen, now)
    other = replace(seen, image_volumes=(volume, replace(volume, service="redis")))
    for unchanged in (seen, other):
        (planned,) = repeats.hold_back(plan_of(action), unchanged, now).services
        assert not planned.actions
        assert planned.reason == "removing the volume of its image changed nothing; it is tried again later"
        assert not planned.failed
    (planned,) = repeats.hold_back(plan_of(action), replace(seen, image_volumes=()), now).services
    assert planned.actions


def test_change_of_another_service_does_not_end_the_wait() -> None:
    repeats, now = RepeatedActions(), Now(0.0, 0.0)
    repeats.ended(START, SEEN, now)
    other = Observed((WEB, container(service("redis"))), SEEN.network)
    assert not repeats.hold_back(plan_of(START), other, now).actions


def test_new_assignment_ends_the_wait() -> None:
    repeats, now = RepeatedActions(), Now(0.0, 0.0)
    repeats.ended(START, SEEN, now)
    repeats.forget()
    assert repeats.hold_back(plan_of(START), SEEN, now).actions


def test_action_undone_by_somebody_is_repeated_at_once_then_backs_off() -> None:
    repeats, mono, starts = RepeatedActions(), 0.0, list[float]()
    changed = Observed((replace(WEB, state=ContainerState.RUNNING),), SEEN.network)
    while mono < 600:
        planned = repeats.hold_back(plan_of(START), SEEN, Now(mono, mono))
        if planned.actions:
            starts.append(mono)
            repeats.ended(START, SEEN, Now(mono, mono))
            repeats.hold_back(plan_of(), changed, Now(mono, mono))
        mono += 1.0
    assert starts == [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512]


def test_long_pause_counts_from_zero() -> None:
    repeats = RepeatedActions()
    for _ in range(10):
        repeats.ended(START, SEEN, Now(0.0, 0.0))
    assert repeats.hold_back(plan_of(START), SEEN, Now(601.0, 601.0)).actions


def test_stuck_service_says_so_and_fails() -> None:
    repeats, now = RepeatedActions(), Now(0.0, 1000.0)
    for count in (1, 2, 3):
        repeats.ended(START, SEEN, now)
        (planned,) = repeats.hold_back(plan_of(START), SEEN, now).services
        assert planned.failed is (count == 3)
    assert planned.reason == "starting its container changed nothing, 3 times in a row; it is tried again later"
    assert planned.retry_wall == 1004.0
    (due,) = repeats.hold_back(plan_of(START), SEEN, Now(4.0, 1004.0)).services
    assert due.failed, "also while the next attempt is due"


def test_leftover_that_cannot_be_removed_fails_no_release() -> None:
    repeats, now = RepeatedActions(), Now(0.0, 0.0)
    for _ in range(5):
        repeats.ended(REMOVE, SEEN, now)
    (planned,) = repeats.hold_back(plan_of(REMOVE), SEEN, now).services
    assert not planned.failed
    assert "removing its container changed nothing" in planned.reason


def test_settings_that_cannot_be_set_back_hold_nothing_up() -> None:
    repeats, now = RepeatedActions(), Now(0.0, 0.0)
    for _ in range(5):
        repeats.ended(UPDATE, SEEN, now)
    (planned,) = repeats.hold_back(plan_of(UPDATE, START), SEEN, now).services
    assert planned.actions == (START,)
    (planned,) = repeats.hold_back(plan_of(UPDATE), SEEN, now).services
    assert (planned.actions, planned.failed, planned.reason, planned.wake) == ((), False, "", 16.0)
