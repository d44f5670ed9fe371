"""Entries that a node reports: about itself, bounded, and limited."""

from __future__ import annotations

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from devopsellence.api.v1.audit_pb2 import AuditEntry
from devopsellence.audit import MOST_REPORTED
from devopsellence.controller.gateway.audit.reports import ReportLimits, accepted
from devopsellence.controller.gateway.rules.refusal import RefusalKind, Refused
from devopsellence.store.codec import encode
from tests.unit.controller.gateway.rules.gateway_builders import ANN, CONTROLLER, NODE, ROOT

ID = "0123456789abcdef"


def test_node_reports_about_itself_whatever_it_says() -> None:
    said = AuditEntry(
        id=ID,
        caller="operator:ann",
        caller_node="n2",
        reported_by="n2",
        reporter_uid="u2",
        nodes=["n2", "n3"],
        keys=["nodes/n2"],
        environments=["acme/shop/production"],
        command=["true"],
    )
    said.at.FromSeconds(1)
    said.node_time.FromSeconds(2)
    (kept,) = accepted(NODE, [said])
    assert (kept.reported_by, kept.reporter_uid, list(kept.nodes)) == ("n1", "u1", ["n1"])
    assert (kept.caller_node, list(kept.keys), kept.HasField("at")) == ("", [], False)
    assert (kept.caller, list(kept.command), kept.node_time.seconds) == ("operator:ann", ["true"], 2)
    assert said.reported_by == "n2", "the report itself stays"


def test_huge_entry_is_cut() -> None:
    text = "x" * 100_000
    said = AuditEntry(id=ID, caller=text, summary=text, reason=text, command=[text] * 50, environments=[text] * 1000)
    (kept,) = accepted(NODE, [said])
    assert len(encode(kept)) < 16_000
    assert kept.command[0].endswith("…")


@pytest.mark.parametrize(
    "said",
    [
        AuditEntry(),
        AuditEntry(id="../x"),
        AuditEntry(id="A" * 24),
        AuditEntry(id=ID, outcome=99),  # type: ignore[arg-type]
        AuditEntry(id=ID, node_time=Timestamp(seconds=1 << 62)),
        AuditEntry(id=ID, node_time=Timestamp(nanos=-1)),
    ],
)
def test_entry_without_sense_is_refused(said: AuditEntry) -> None:
    with pytest.raises(Refused) as refused:
        accepted(NODE, [said])
    assert refused.value.kind is RefusalKind.INVALID


def test_report_is_refused_to_others_and_beyond_its_size() -> None:
    for caller in (ANN, ROOT, CONTROLLER):
        with pytest.raises(Refused, match="is no node"):
            accepted(caller, [])
    with pytest.raises(Refused, match="a report of 201 entries"):
        accepted(NODE, [AuditEntry(id=ID)] * (MOST_REPORTED + 1))


def test_limits_are_of_each_node_and_come_back() -> None:
    limits = ReportLimits()
    limits.take(NODE, 4_000, 1000, 0.0)
    with pytest.raises(Refused, match="the limit of reported entries"):
        limits.take(NODE, 1, 1000, 0.0)
    limits.take(NODE, 5, 1000, 100.0)
    fresh = ReportLimits()
    with pytest.raises(Refused):
        fresh.take(NODE, 1, 5 << 20, 0.0)
    fresh.take(NODE, 1, 4 << 20, 0.0)
