"""Writes of nodes that etcd itself decides on: which of its states they require."""

from __future__ import annotations

import pytest

from devopsellence.controller.gateway.rules.caller import Caller
from devopsellence.controller.gateway.rules.guards import Guards, guards_of
from devopsellence.controller.gateway.rules.policy import MOST_TXN_OPERATIONS
from devopsellence.controller.gateway.rules.reports import NeededFacts
from devopsellence.etcd.v3 import etcd_pb2 as rpc
from tests.unit.controller.gateway.rules.gateway_builders import ANN, KEYS, NODE, REF

STATUS, EVENT = KEYS.status("n1", REF), KEYS.event(REF, "e1")
ASSIGNMENT = KEYS.assignment("n1", REF)
MANY = frozenset(KEYS.event(REF, f"e{number}") for number in range(MOST_TXN_OPERATIONS))


@pytest.mark.parametrize(
    ("who", "needed", "guards"),
    [
        (NODE, {ASSIGNMENT, EVENT}, Guards(frozenset({ASSIGNMENT}), frozenset({EVENT}))),
        # A status may exist or not, once its environment is assigned.
        (NODE, {ASSIGNMENT, STATUS}, Guards(frozenset({ASSIGNMENT}), frozenset())),
        (NODE, MANY, Guards(frozenset(), MANY)),
        (NODE, {*MANY, ASSIGNMENT}, None),
        (NODE, set(), None),
        (NODE, {ASSIGNMENT, KEYS.node("n1")}, None),
        (ANN, {EVENT}, None),
    ],
)
def test_guards_of_writes(who: Caller, needed: set[str], guards: Guards | None) -> None:
    assert guards_of(who, KEYS, NeededFacts(frozenset(needed), count_statuses=True)) == guards


def test_compares_and_facts_say_the_same() -> None:
    guards = Guards(frozenset({ASSIGNMENT}), frozenset({EVENT}))
    assert (guards.facts.has(ASSIGNMENT), guards.facts.has(EVENT)) == (True, False)
    present, absent = guards.compares()
    assert (present.key.decode(), present.result) == (ASSIGNMENT, rpc.Compare.NOT_EQUAL)
    assert (absent.key.decode(), absent.result) == (EVENT, rpc.Compare.EQUAL)
    assert {compare.target for compare in (present, absent)} == {rpc.Compare.CREATE}
    assert all(compare.WhichOneof("target_union") == "create_revision" for compare in (present, absent))
