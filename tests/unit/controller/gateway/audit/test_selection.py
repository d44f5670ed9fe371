"""Entries that an operator may read, and those that a request asks for."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from devopsellence.api.v1.audit_pb2 import AuditEntry, AuditRequest
from devopsellence.controller.gateway.audit.selection import MOST_ENTRIES, Selection, check_request
from devopsellence.controller.gateway.rules.caller import Caller
from devopsellence.controller.gateway.rules.refusal import Refused
from devopsellence.store.codec import encode
from tests.unit.controller.gateway.rules.gateway_builders import ABE, AMY, ANN, CONTROLLER, NODE, REF, ROOT

OWN, STAGING, OTHER = str(REF), "acme/blog/staging", "other/shop/production"


def entry(*environments: str, caller: str = "operator:eve", **fields: Any) -> AuditEntry:
    made = AuditEntry(id="1", caller=caller, environments=environments, **fields)
    made.at.FromSeconds(1000)
    return made


def sees(caller: Caller, *environments: str, by: str = "operator:eve") -> bool:
    return Selection(caller, AuditRequest()).has(entry(*environments, caller=by))


@pytest.mark.parametrize("caller", [ROOT, CONTROLLER, AMY], ids=lambda caller: caller.identity)
def test_all_entries_are_for_root_and_admins_of_all_environments(caller: Caller) -> None:
    assert sees(caller, OWN)
    assert sees(caller)
    assert sees(caller, "garbage//")


@pytest.mark.parametrize(
    ("environments", "seen"),
    [
        ([OWN], True),
        ([STAGING], True),
        (["acme/*"], True),
        ([OWN, STAGING], True),
        ([OTHER], False),
        # Of a call about several, an admin of some would learn about others.
        ([OWN, OTHER], False),
        (["*"], False),
        # About what all environments share, such as a node.
        ([], False),
        (["acme//"], False),
    ],
)
def test_admin_of_some_environments_sees_calls_about_these(environments: list[str], seen: bool) -> None:
    assert sees(ABE, *environments) is seen
    # A deployer, even of this environment, sees its own.
    assert not sees(ANN, *environments)


def test_everybody_sees_the_own_calls() -> None:
    assert sees(ANN, OTHER, by="operator:ann")
    assert sees(ANN, by="operator:ann")
    assert not sees(ANN, by="operator:ann2")


def request(**fields: Any) -> AuditRequest:
    made = AuditRequest(**{name: value for name, value in fields.items() if name not in ("since", "until")})
    for name in ("since", "until"):
        if name in fields:
            getattr(made, name).FromSeconds(fields[name])
    return made


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        ({}, True),
        ({"caller": "operator:eve"}, True),
        ({"caller": "operator:ann"}, False),
        ({"since": 1000}, True),
        ({"since": 1001}, False),
        ({"until": 1001}, True),
        ({"until": 1000}, False),
        ({"node": "n1"}, True),
        ({"node": "n2"}, True),
        ({"node": "n3"}, False),
        ({"refused": True}, True),
        ({"environment": OWN}, True),
        ({"environment": "acme/shop/staging"}, True),
        ({"environment": OTHER}, False),
    ],
)
def test_request_chooses(asked: dict[str, Any], chosen: bool) -> None:
    found = entry("acme/shop/*", outcome=AuditEntry.REFUSED, reported_by="n1", nodes=["n2"])
    selection = Selection(ROOT, request(**asked))
    assert selection.has(found) is chosen
    if chosen:
        # The quick look at the line never leaves a chosen entry out.
        assert all(needle in encode(found) for needle in selection.needles())


def test_other_outcomes_are_not_refusals() -> None:
    for outcome in (AuditEntry.ALLOWED, AuditEntry.FAILED, AuditEntry.ENDED):
        assert not Selection(ROOT, request(refused=True)).has(entry(outcome=outcome))


def test_quick_look_leaves_out_texts_that_json_writes_differently() -> None:
    assert Selection(ROOT, request(caller='operator:"x', node="knöten")).needles() == ()


@pytest.mark.parametrize(
    ("caller", "asked", "reason"),
    [
        (NODE, AuditRequest(), "node:u1 may not read the audit trail"),
        (ANN, AuditRequest(limit=MOST_ENTRIES + 1), "10000 are the most"),
        (ANN, AuditRequest(environment="acme//"), "is no pattern of environments"),
        (ANN, AuditRequest(since=Timestamp(seconds=1 << 60)), "Timestamp is not valid"),
    ],
)
def test_request_is_refused(caller: Caller, asked: AuditRequest, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        check_request(caller, asked)
