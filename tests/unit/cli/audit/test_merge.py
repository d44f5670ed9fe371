"""Entries of several gateways in one order."""

from __future__ import annotations

from devopsellence.api.v1.audit_pb2 import AuditEntry
from devopsellence.cli.audit.merge import KnownEntries, merged


def entry(number: str, seconds: int, uid: str = "") -> AuditEntry:
    made = AuditEntry(id=number, reporter_uid=uid)
    made.at.FromSeconds(seconds)
    return made


def test_entries_are_sorted_and_of_those_stored_twice_the_first_stays() -> None:
    first, second, again = entry("b", 1, "u1"), entry("a", 2), entry("b", 3, "u1")
    assert merged([again, second, first]) == [first, second]


def test_node_cannot_hide_an_entry_behind_an_id() -> None:
    recorded, reported = entry("a", 2), entry("a", 1, "u1")
    assert merged([recorded, reported]) == [reported, recorded]


def test_known_entries_are_new_once() -> None:
    known = KnownEntries()
    assert known.new([entry("b", 2), entry("a", 1)]) == [entry("a", 1), entry("b", 2)]
    assert known.new([entry("b", 9), entry("c", 3)]) == [entry("c", 3)]
