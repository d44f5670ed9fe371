"""Entries of the audit trail: origin of a call, and limits."""

from __future__ import annotations

import pytest

from devopsellence.access.certificate import Certificate
from devopsellence.api.v1.audit_pb2 import AuditEntry
from devopsellence.audit import CallSource, RefusalBudget, bound, cut_list

ANN = Certificate("operator:ann", "1f")


@pytest.mark.parametrize(
    ("named", "shown"),
    [
        ("ipv4:10.0.0.9:4711", "10.0.0.9:4711"),
        ("ipv6:%5Bfd00::9%5D:4711", "[fd00::9]:4711"),
        ("unix:/run/x", "unix:/run/x"),
        ("", ""),
    ],
)
def test_source_has_the_address_of_the_caller(named: str, shown: str) -> None:
    assert CallSource.of(ANN, named).peer == shown


def test_entry_names_the_certificate() -> None:
    source = CallSource.of(ANN, "ipv4:10.0.0.9:4711")
    made, other = (source.entry("Exec", AuditEntry.REFUSED, "no") for _ in range(2))
    assert (made.caller, made.serial, made.call, made.reason) == ("operator:ann", "1f", "Exec", "no")
    assert made.id != other.id


def test_short_entry_stays_as_it_is() -> None:
    made = AuditEntry(id="1", caller="operator:ann", summary="x", command=["a", "", "b c"], keys=["k"], exit_code=0)
    before = AuditEntry.FromString(made.SerializeToString())
    assert bound(made) == before


def test_list_is_cut_where_the_room_ends() -> None:
    assert list(cut_list(["a" * 8, "b", "c"], 10)) == ["a" * 8, "b", "…"]
    assert list(cut_list(["a" * 30, "b"], 10)) == ["a" * 9 + "…", "…"]
    assert len(list(cut_list([""] * 10_000, 20))) == 21


def test_refusals_of_a_caller_are_limited_and_counted() -> None:
    budget = RefusalBudget()
    assert [budget.take("eve", 0.0) for _ in range(50)] == [0] * 50
    assert [budget.take("eve", 0.0) for _ in range(3)] == [None] * 3
    assert budget.take("ann", 0.0) == 0
    assert budget.take("eve", 60.0) == 3
    assert budget.take("eve", 60.0) is None
