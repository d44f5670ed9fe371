"""Slots: as many pulls as there is room for, calls beside them, and nobody who went without is forgotten."""

from __future__ import annotations

from devopsellence.nodeagent.docker.engine import CALLS, PULLS
from devopsellence.nodeagent.plan.actions import Action, Kind
from devopsellence.nodeagent.reconcile.slots import Lanes
from devopsellence.store.keys import EnvironmentRef
from tests.unit.nodeagent.support import ENV

OTHER = EnvironmentRef("acme", "shop", "staging")


def actions(kind: Kind, count: int) -> list[Action]:
    return [Action(kind, "", f"s{number}") for number in range(count)]


def test_pulls_do_not_stand_in_the_way_of_calls() -> None:
    lanes = Lanes()
    pulls = lanes.choose(ENV, actions(Kind.PULL, PULLS + 3))
    assert len(pulls) == PULLS
    for pull in pulls:
        lanes.enter(pull)
    assert lanes.choose(OTHER, actions(Kind.PULL, 1)) == []
    assert len(lanes.choose(OTHER, actions(Kind.CREATE, CALLS + 1))) == CALLS


def test_who_went_without_a_slot_is_told_once_when_one_is_free() -> None:
    lanes = Lanes()
    for each in lanes.choose(ENV, actions(Kind.PULL, PULLS)):
        lanes.enter(each)
    [late] = actions(Kind.PULL, 1)
    assert lanes.choose(OTHER, [late]) == []
    assert lanes.leave(late) == [OTHER]
    assert lanes.leave(late) == []
    assert lanes.choose(OTHER, [late]) == [late]
