"""Slots: limits for pulls and calls, and environments waiting for a slot."""

from __future__ import annotations

from devopsellence.nodeagent.docker.engine import CALLS, PULLS
from devopsellence.nodeagent.plan.actions import Action, ActionKind
from devopsellence.nodeagent.reconcile.slots import ActionSlots
from devopsellence.store.keys import EnvironmentRef
from tests.unit.nodeagent.planning import ENV

OTHER = EnvironmentRef("acme", "shop", "staging")


def actions(kind: ActionKind, count: int) -> list[Action]:
    return [Action(kind, "", f"s{number}") for number in range(count)]


def test_pulls_do_not_block_calls() -> None:
    slots = ActionSlots()
    pulls = slots.choose(ENV, actions(ActionKind.PULL, PULLS + 3))
    assert len(pulls) == PULLS
    for pull in pulls:
        slots.take(pull)
    assert slots.choose(OTHER, actions(ActionKind.PULL, 1)) == []
    assert len(slots.choose(OTHER, actions(ActionKind.CREATE, CALLS + 1))) == CALLS


def test_waiting_environment_is_notified_once_of_a_free_slot() -> None:
    slots = ActionSlots()
    for pull in slots.choose(ENV, actions(ActionKind.PULL, PULLS)):
        slots.take(pull)
    [late] = actions(ActionKind.PULL, 1)
    assert slots.choose(OTHER, [late]) == []
    assert slots.release(late) == [OTHER]
    assert slots.release(late) == []
    assert slots.choose(OTHER, [late]) == [late]
