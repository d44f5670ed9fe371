"""Decisions on requests, as tables."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from devopsellence.controller.gateway.rules import policy
from devopsellence.controller.gateway.rules.caller import Caller
from devopsellence.controller.gateway.rules.leases import lease_id
from devopsellence.controller.gateway.rules.policy import ReadMode
from devopsellence.controller.gateway.rules.refusal import RefusalKind, Refused
from devopsellence.controller.gateway.rules.reports import UNASSIGNED_STATUSES, Facts
from devopsellence.etcd.v3 import etcd_pb2 as rpc
from devopsellence.store.keys import EnvironmentRef
from tests.unit.controller.gateway.rules.gateway_builders import (
    ANN,
    CONTROLLER,
    KEYS,
    NODE,
    REF,
    ROOT,
    event,
    release,
    status,
)

OWN_LEASE, ANN_LEASE = lease_id("node:u1", 7), lease_id("operator:ann", 7)
STATUS, EVENT, RELEASE = (key.encode() for key in (KEYS.status("n1", REF), KEYS.event(REF, "e1"), KEYS.release(REF, 1)))
OWN_RELEASES = KEYS.releases_prefix(REF).encode()
ASSIGNED = Facts({KEYS.assignment("n1", REF): b"{}"})
UNASSIGNED = Facts({KEYS.assignment("n1", REF): None}, statuses=UNASSIGNED_STATUSES)
PUT_STATUS = rpc.PutRequest(key=STATUS, value=status())
PUT_EVENT = rpc.PutRequest(key=EVENT, value=event(), lease=OWN_LEASE)
PUT_RELEASE = rpc.PutRequest(key=RELEASE, value=release())
ABSENT = rpc.Compare(key=RELEASE, target=rpc.Compare.CREATE, create_revision=0)


def refusal(decide: Callable[[], object]) -> RefusalKind | None:
    """Return the kind of a refusal; None if allowed."""
    try:
        decide()
    except Refused as refused:
        return refused.kind
    return None


def txn(
    *,
    compare: list[rpc.Compare] | None = None,
    success: list[rpc.PutRequest] | None = None,
    failure: list[rpc.PutRequest] | None = None,
) -> rpc.TxnRequest:
    return rpc.TxnRequest(
        compare=compare or [],
        success=[rpc.RequestOp(request_put=put) for put in success or []],
        failure=[rpc.RequestOp(request_put=put) for put in failure or []],
    )


@pytest.mark.parametrize(
    ("who", "request_", "expected"),
    [
        (NODE, rpc.RangeRequest(key=STATUS), ReadMode.WHOLE),
        (ANN, rpc.RangeRequest(key=RELEASE), ReadMode.WHOLE),
        (ANN, rpc.RangeRequest(key=b"/v1/releases/", range_end=b"/v1/releases0"), ReadMode.FILTERED),
        (ANN, rpc.RangeRequest(key=b"\0", range_end=b"\0"), ReadMode.FILTERED),
        (ROOT, rpc.RangeRequest(key=b"/v1/", range_end=b"/v10"), ReadMode.WHOLE),
        (NODE, rpc.RangeRequest(key=RELEASE), RefusalKind.DENIED),
        (NODE, rpc.RangeRequest(key=b"/v1/", range_end=b"/v10"), RefusalKind.DENIED),
        (NODE, rpc.RangeRequest(key=b"\0", range_end=b"\0"), RefusalKind.DENIED),
        (NODE, rpc.RangeRequest(key=EVENT), RefusalKind.DENIED),
        (ANN, rpc.RangeRequest(key=b"/v2/x"), RefusalKind.DENIED),
        (NODE, rpc.RangeRequest(), RefusalKind.INVALID),
        (NODE, rpc.RangeRequest(key=b"b", range_end=b"a"), RefusalKind.INVALID),
        (ROOT, rpc.RangeRequest(key=b"/v1/" + b"x" * 1_021), RefusalKind.INVALID),
        (ROOT, rpc.RangeRequest(key=b"/v1/", range_end=b"/v1/" + b"x" * 1_021), RefusalKind.INVALID),
        (NODE, rpc.RangeRequest(key=STATUS, limit=-1), RefusalKind.INVALID),
        (ANN, rpc.RangeRequest(key=RELEASE, min_mod_revision=1), RefusalKind.UNSUPPORTED),
        (ANN, rpc.RangeRequest(key=RELEASE, max_create_revision=1), RefusalKind.UNSUPPORTED),
    ],
)
def test_reads(who: Caller, request_: rpc.RangeRequest, expected: ReadMode | RefusalKind) -> None:
    try:
        found: ReadMode | RefusalKind = policy.check_range(who, request_)
    except Refused as refused:
        found = refused.kind
    assert found is expected


@pytest.mark.parametrize(
    ("who", "put", "facts", "expected"),
    [
        (NODE, PUT_STATUS, ASSIGNED, None),
        (NODE, PUT_STATUS, Facts(), None),
        (NODE, PUT_STATUS, UNASSIGNED, RefusalKind.DENIED),
        (NODE, PUT_EVENT, ASSIGNED, None),
        (NODE, PUT_EVENT, Facts(), RefusalKind.DENIED),
        (NODE, rpc.PutRequest(key=EVENT, value=event()), ASSIGNED, RefusalKind.DENIED),
        (NODE, rpc.PutRequest(key=STATUS, value=status(), lease=OWN_LEASE), ASSIGNED, RefusalKind.DENIED),
        (NODE, rpc.PutRequest(key=EVENT, value=event(), lease=7), ASSIGNED, RefusalKind.DENIED),
        (NODE, rpc.PutRequest(key=EVENT, value=event(), lease=OWN_LEASE, prev_kv=True), ASSIGNED, RefusalKind.DENIED),
        (NODE, rpc.PutRequest(key=STATUS, value=status(), ignore_value=True), ASSIGNED, RefusalKind.UNSUPPORTED),
        (NODE, rpc.PutRequest(key=STATUS, value=status(), ignore_lease=True), ASSIGNED, RefusalKind.UNSUPPORTED),
        (NODE, rpc.PutRequest(key=b"/v1/status/n1\xff/a/b/c", value=status()), ASSIGNED, RefusalKind.DENIED),
        (NODE, rpc.PutRequest(key=b"", value=status()), ASSIGNED, RefusalKind.INVALID),
        (NODE, PUT_RELEASE, ASSIGNED, RefusalKind.DENIED),
        (ANN, PUT_RELEASE, Facts(), RefusalKind.DENIED),
        (ANN, rpc.PutRequest(key=EVENT, value=event(source="cli"), lease=OWN_LEASE), Facts(), RefusalKind.DENIED),
        (CONTROLLER, rpc.PutRequest(key=b"/v1/x", value=b"anything", lease=7), Facts(), None),
        (CONTROLLER, rpc.PutRequest(key=b"/v2/x", value=b"anything"), Facts(), RefusalKind.DENIED),
    ],
)
def test_writes(who: Caller, put: rpc.PutRequest, facts: Facts, expected: RefusalKind | None) -> None:
    assert refusal(lambda: policy.check_put(who, KEYS, put, facts, set())) is expected


def test_writes_of_a_transaction_are_told_by_branch() -> None:
    deletion = rpc.DeleteRangeRequest(key=OWN_RELEASES, range_end=OWN_RELEASES[:-1] + b"0")
    request = rpc.TxnRequest(
        success=[rpc.RequestOp(request_put=PUT_STATUS), rpc.RequestOp(request_range=rpc.RangeRequest(key=STATUS))],
        failure=[rpc.RequestOp(request_delete_range=deletion)],
    )
    assert policy.puts_in(request.success) == [PUT_STATUS]
    assert policy.puts_in(request.failure) == []
    assert [str(keys) for keys in policy.written_in(request.success)] == [STATUS.decode()]
    assert [str(keys) for keys in policy.written_in(request.failure)] == [
        f"{KEYS.releases_prefix(REF)}…{KEYS.releases_prefix(REF)[:-1]}0"
    ]


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (txn(compare=[ABSENT], success=[PUT_RELEASE]), None),
        (txn(success=[PUT_RELEASE]), RefusalKind.DENIED),
        # A release that vanishes could be written again.
        (
            txn(compare=[ABSENT], success=[rpc.PutRequest(key=RELEASE, value=release(), lease=ANN_LEASE)]),
            RefusalKind.DENIED,
        ),
        (txn(compare=[ABSENT], failure=[PUT_RELEASE]), RefusalKind.DENIED),
        (txn(compare=[ABSENT], success=[PUT_RELEASE], failure=[PUT_RELEASE]), RefusalKind.DENIED),
        (
            txn(
                compare=[rpc.Compare(key=RELEASE + b"2", target=rpc.Compare.CREATE, create_revision=0)],
                success=[PUT_RELEASE],
            ),
            RefusalKind.DENIED,
        ),
        (
            txn(
                compare=[
                    rpc.Compare(key=RELEASE, target=rpc.Compare.CREATE, create_revision=0, result=rpc.Compare.NOT_EQUAL)
                ],
                success=[PUT_RELEASE],
            ),
            RefusalKind.DENIED,
        ),
        # The target says CREATE, the value is another field: etcd would compare with 0, or not.
        (
            txn(compare=[rpc.Compare(key=RELEASE, target=rpc.Compare.CREATE, version=3)], success=[PUT_RELEASE]),
            RefusalKind.DENIED,
        ),
        (txn(compare=[rpc.Compare(key=b"/v1/secrets/a/b/c/web/KEY")]), RefusalKind.DENIED),
        (txn(compare=[rpc.Compare(key=RELEASE, range_end=b"\0")]), RefusalKind.UNSUPPORTED),
        (txn(compare=[ABSENT] * 129), RefusalKind.INVALID),
        (rpc.TxnRequest(success=[rpc.RequestOp()]), RefusalKind.UNSUPPORTED),
        (rpc.TxnRequest(success=[rpc.RequestOp(request_txn=rpc.TxnRequest())]), RefusalKind.DENIED),
        (rpc.TxnRequest(failure=[rpc.RequestOp(request_txn=rpc.TxnRequest())]), RefusalKind.DENIED),
        (
            rpc.TxnRequest(
                success=[rpc.RequestOp(request_range=rpc.RangeRequest(key=b"/v1/secrets/", range_end=b"/v1/secrets0"))]
            ),
            RefusalKind.DENIED,
        ),
        (
            rpc.TxnRequest(
                failure=[rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=b"/v1/", range_end=b"/v10"))]
            ),
            RefusalKind.DENIED,
        ),
    ],
)
def test_transactions_of_an_operator(request_: rpc.TxnRequest, expected: RefusalKind | None) -> None:
    assert refusal(lambda: policy.check_txn(ANN, KEYS, request_, Facts(), set())) is expected


@pytest.mark.parametrize("who", [NODE, ANN, ROOT, CONTROLLER])
def test_nested_transactions_are_refused_to_everybody(who: Caller) -> None:
    nested = rpc.TxnRequest(success=[rpc.RequestOp(request_txn=rpc.TxnRequest())])
    assert refusal(lambda: policy.check_txn(who, KEYS, nested, Facts(), set())) is RefusalKind.DENIED


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (rpc.DeleteRangeRequest(key=RELEASE), None),
        (rpc.DeleteRangeRequest(key=OWN_RELEASES, range_end=OWN_RELEASES[:-1] + b"0"), None),
        (rpc.DeleteRangeRequest(key=b"/v1/releases/acme/", range_end=b"/v1/releases/acme0"), RefusalKind.DENIED),
        (rpc.DeleteRangeRequest(key=b"/v1/releases/", range_end=b"\0"), RefusalKind.DENIED),
        (rpc.DeleteRangeRequest(key=STATUS), RefusalKind.DENIED),
    ],
)
def test_deletions(request_: rpc.DeleteRangeRequest, expected: RefusalKind | None) -> None:
    assert refusal(lambda: policy.check_delete(ANN, request_)) is expected
    assert refusal(lambda: policy.check_delete(NODE, request_)) is RefusalKind.DENIED


def test_unknown_field_is_refused() -> None:
    request = rpc.RangeRequest()
    request.MergeFromString(b"\x0a\x01k\xf8\x07\x01")  # field 127
    assert refusal(lambda: policy.check_understood(request)) is RefusalKind.UNSUPPORTED


def test_unknown_field_in_a_part_is_refused() -> None:
    put = rpc.PutRequest()
    put.MergeFromString(b"\x0a\x01k\xf8\x07\x01")
    request = rpc.TxnRequest(success=[rpc.RequestOp(request_put=put)])
    assert refusal(lambda: policy.check_understood(request)) is RefusalKind.UNSUPPORTED


@pytest.mark.parametrize(
    ("wire", "kind"),
    [
        (b"\x0a\x01k\x28\x09", rpc.RangeRequest),  # sort_order 9
        (b"\x08\x09\x1a\x01k", rpc.Compare),  # result 9
        (b"\x0a\x01k\x2a\x01\x09", rpc.WatchCreateRequest),  # filters [9]
    ],
)
def test_unknown_value_of_an_enumeration_is_refused(
    wire: bytes, kind: type[rpc.RangeRequest | rpc.Compare | rpc.WatchCreateRequest]
) -> None:
    request = kind()
    request.MergeFromString(wire)
    assert refusal(lambda: policy.check_understood(request)) is RefusalKind.UNSUPPORTED


def test_cost_counts_both_branches_and_events_apart() -> None:
    cost = policy.cost_of_txn(KEYS, txn(success=[PUT_STATUS, PUT_EVENT], failure=[PUT_STATUS]))
    size = len(STATUS) + len(status())
    events = len(EVENT) + len(event())
    assert (cost.writes, cost.written_bytes, cost.events, cost.event_bytes) == (3, 2 * size + events, 1, events)


def test_event_of_another_environment_is_no_business_of_the_node() -> None:
    other = KEYS.event(EnvironmentRef("acme", "other", "production"), "e1")
    put = rpc.PutRequest(key=other.encode(), value=event(), lease=OWN_LEASE)
    assert refusal(lambda: policy.check_put(NODE, KEYS, put, ASSIGNED, {str(REF)})) is RefusalKind.DENIED


def test_refusal_tells_nothing_of_events_elsewhere() -> None:
    other = KEYS.event(EnvironmentRef("acme", "other", "production"), "e1")
    put = rpc.PutRequest(key=other.encode(), value=event(), lease=OWN_LEASE)
    reasons = set()
    for stored in (None, event(node="n2")):
        with pytest.raises(Refused) as caught:
            policy.check_put(NODE, KEYS, put, Facts({other: stored}), set())
        reasons.add(caught.value.reason)
    assert len(reasons) == 1
