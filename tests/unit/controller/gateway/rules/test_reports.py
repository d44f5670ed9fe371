"""Reports of nodes about environments that are, or are not, assigned to them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from devopsellence.controller.gateway.rules.caller import Caller
from devopsellence.controller.gateway.rules.leases import lease_id
from devopsellence.controller.gateway.rules.refusal import Refused
from devopsellence.controller.gateway.rules.reports import (
    UNASSIGNED_STATUSES,
    Facts,
    NeededFacts,
    check_reports,
    needed_facts,
    statuses_in,
)
from devopsellence.etcd.v3 import etcd_pb2 as rpc
from devopsellence.store.keys import EnvironmentRef
from tests.unit.controller.gateway.rules.gateway_builders import ANN, CONTROLLER, KEYS, NODE, REF, event, status

STATUS, EVENT = KEYS.status("n1", REF), KEYS.event(REF, "e1")
ASSIGNMENT = KEYS.assignment("n1", REF)
PUT_STATUS = rpc.PutRequest(key=STATUS.encode(), value=status())
PUT_EVENT = rpc.PutRequest(key=EVENT.encode(), value=event(), lease=lease_id("node:u1", 7))
FULL = Facts({ASSIGNMENT: None}, statuses=UNASSIGNED_STATUSES)


def is_refused(puts: Sequence[rpc.PutRequest], facts: Facts, *known: str, who: Caller = NODE) -> bool:
    try:
        check_reports(who, KEYS, puts, facts, set(known))
    except Refused:
        return True
    return False


@pytest.mark.parametrize(
    ("who", "put", "known", "needed"),
    [
        (NODE, PUT_STATUS, set(), NeededFacts(frozenset({ASSIGNMENT, STATUS}), count_statuses=True)),
        (NODE, PUT_STATUS, {STATUS}, NeededFacts()),
        # The status of an environment tells nothing about the right to write its events.
        (NODE, PUT_EVENT, {STATUS}, NeededFacts(frozenset({ASSIGNMENT, EVENT}))),
        (NODE, rpc.PutRequest(key=KEYS.status("n2", REF).encode()), set(), NeededFacts()),
        (ANN, PUT_EVENT, set(), NeededFacts(frozenset({EVENT}))),
        (CONTROLLER, PUT_EVENT, set(), NeededFacts()),
    ],
)
def test_needed_facts(who: Caller, put: rpc.PutRequest, known: set[str], needed: NeededFacts) -> None:
    assert needed_facts(who, KEYS, [put], known) == needed


@pytest.mark.parametrize(
    ("put", "facts", "known", "expected"),
    [
        (PUT_STATUS, Facts({ASSIGNMENT: b"{}"}, statuses=1_000), (), False),
        (PUT_STATUS, Facts({ASSIGNMENT: None}, statuses=UNASSIGNED_STATUSES - 1), (), False),
        (PUT_STATUS, FULL, (), True),
        # A status that exists may change, such as that of an environment which is being removed.
        (PUT_STATUS, Facts({ASSIGNMENT: None, STATUS: b"{}"}, statuses=1_000), (), False),
        (PUT_STATUS, FULL, (STATUS,), False),
        (PUT_EVENT, Facts({ASSIGNMENT: b"{}"}), (), False),
        (PUT_EVENT, Facts({ASSIGNMENT: None}), (STATUS,), True),
    ],
)
def test_reports(put: rpc.PutRequest, facts: Facts, known: tuple[str, ...], expected: bool) -> None:
    assert is_refused([put], facts, *known) is expected
    assert not is_refused([put], facts, *known, who=ANN)


def test_unassigned_statuses_of_one_request_count_together() -> None:
    refs = [EnvironmentRef("acme", "shop", f"e{number}") for number in range(UNASSIGNED_STATUSES + 1)]
    puts = [rpc.PutRequest(key=KEYS.status("n1", ref).encode()) for ref in refs]
    assert not is_refused(puts[1:], Facts())
    assert is_refused(puts, Facts())
    # The same one in both branches of a transaction is one.
    assert not is_refused([*puts[1:], puts[1]], Facts())


def test_statuses_of_writes() -> None:
    assert statuses_in(NODE, KEYS, [PUT_STATUS, PUT_EVENT]) == {STATUS}
    assert statuses_in(ANN, KEYS, [PUT_STATUS]) == set()
