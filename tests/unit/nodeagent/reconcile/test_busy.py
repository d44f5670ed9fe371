"""Actions in progress: what may start beside what."""

from __future__ import annotations

import pytest

from devopsellence.nodeagent.plan.actions import TASK, Action, ActionKind
from devopsellence.nodeagent.reconcile.busy import BusyActions
from tests.unit.nodeagent.planning import desired_of, desired_service, service

K = ActionKind
OLD, NEW = service(version="1"), service(version="2")
DESIRED = desired_of(NEW, service("redis"))
OLD_HASH, NEW_HASH = desired_service(OLD).hash, desired_service(NEW).hash


def action(kind: ActionKind, hash_: str = NEW_HASH, name: str = "web") -> Action:
    return Action(kind, "because", name, hash_, f"container-{hash_[:6]}", name)


STOP_OLD, STOP_NEW = action(K.STOP, OLD_HASH), action(K.STOP)


@pytest.mark.parametrize(
    ("running", "kind", "hash_", "may"),
    [
        pytest.param(STOP_OLD, K.EXAMINE, NEW_HASH, True, id="the new container has ended"),
        pytest.param(STOP_OLD, K.START, NEW_HASH, True, id="the new container starts again"),
        pytest.param(STOP_OLD, K.CREATE, NEW_HASH, True, id="the new container is gone"),
        pytest.param(STOP_OLD, K.STOP, NEW_HASH, False, id="the new container is unhealthy"),
        pytest.param(STOP_OLD, K.STOP, OLD_HASH, False, id="the same stop again"),
        pytest.param(STOP_OLD, K.EXAMINE, OLD_HASH, False, id="the old container has ended"),
        pytest.param(STOP_OLD, K.REMOVE, OLD_HASH, False, id="the old container is removed"),
        pytest.param(STOP_NEW, K.START, NEW_HASH, False, id="the container itself is being stopped"),
        pytest.param(action(K.START), K.EXAMINE, NEW_HASH, False, id="the container is being started"),
        pytest.param(action(K.REMOVE, OLD_HASH), K.START, NEW_HASH, False, id="the old container is being removed"),
    ],
)
def test_action_may_start_beside_another_of_its_service_if(
    running: Action, kind: ActionKind, hash_: str, may: bool
) -> None:
    busy = BusyActions()
    busy.add(running, DESIRED)
    assert busy.may_start(action(kind, hash_), DESIRED) == may
    busy.remove(running)
    assert busy.may_start(action(kind, hash_), DESIRED)


@pytest.mark.parametrize(
    "running", [STOP_OLD, action(K.START), action(K.CREATE_NETWORK, "", ""), action(K.START, name=TASK)]
)
def test_other_services_are_not_affected(running: Action) -> None:
    busy = BusyActions()
    busy.add(running, DESIRED)
    assert busy.may_start(action(K.START, desired_service(service("redis")).hash, "redis"), DESIRED)
    assert busy.services == {running.service}


def test_container_that_is_being_stopped_is_not_started_after_a_rollback() -> None:
    busy, rolled_back = BusyActions(), desired_of(OLD)
    busy.add(STOP_OLD, DESIRED)
    assert not busy.may_start(action(K.EXAMINE, OLD_HASH), rolled_back)
    assert not busy.may_start(action(K.START, OLD_HASH), rolled_back)
    busy.remove(STOP_OLD)
    assert busy.may_start(action(K.START, OLD_HASH), rolled_back)


def test_service_that_leaves_has_one_action_at_a_time() -> None:
    busy, leaving = BusyActions(), desired_of()
    busy.add(STOP_OLD, leaving)
    assert not busy.may_start(action(K.REMOVE, OLD_HASH), leaving)


def test_both_actions_of_a_service_are_known_until_they_end() -> None:
    busy, start = BusyActions(), action(K.START)
    busy.add(STOP_OLD, DESIRED)
    busy.add(start, DESIRED)
    assert (list(busy.actions), busy.stops) == ([start, STOP_OLD], {"web": STOP_OLD})
    assert busy.services == {"web"}
    busy.remove(STOP_OLD)
    assert (list(busy.actions), busy.stops) == ([start], {})
    busy.remove(start)
    assert not busy.services
