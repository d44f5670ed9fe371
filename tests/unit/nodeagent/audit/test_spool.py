"""The spool: order, bounds, and files of an earlier agent."""

from __future__ import annotations

from typing import Any

from devopsellence.api.v1.audit_pb2 import AuditEntry
from devopsellence.audit import MOST_REPORTED
from devopsellence.nodeagent.audit.spool import MOST_BYTES, MOST_ENTRIES, Spool


def entry(number: int, **fields: Any) -> AuditEntry:
    return AuditEntry(id=f"{number:024x}", **fields)


def filled(count: int) -> Spool:
    spool = Spool()
    for number in range(count):
        spool.add(entry(number))
    return spool


def ids(spool: Spool) -> list[int]:
    return [int(each.id, 16) for each in spool.batch()]


def test_batches_go_oldest_first_until_nothing_is_left() -> None:
    spool, seen = filled(MOST_REPORTED + 5), []
    while batch := spool.batch():
        seen += [int(each.id, 16) for each in batch]
        spool.remove(batch)
    assert seen == list(range(MOST_REPORTED + 5))
    assert (len(spool), spool.content()) == (0, b"")


def test_file_is_read_back_before_what_came_since() -> None:
    later = filled(1)
    later.add(entry(9))
    content = filled(3).content()
    assert later.load(content + b'{"id": "cut') == 1
    assert ids(later) == [0, 1, 2, 0, 9]
    assert later.load(b"\xff\n[]\n") == 2


def test_oldest_go_and_are_counted() -> None:
    spool = filled(MOST_ENTRIES + 3)
    assert len(spool) == MOST_ENTRIES
    (first, second) = spool.batch()[:2]
    assert (int(first.id, 16), first.left_out, second.left_out) == (3, 3, 0)
    # The count goes with the entry that has it.
    spool.add(entry(9999))
    assert spool.batch()[0].left_out == 4
    again = Spool()
    again.load(spool.content())
    assert again.batch() == spool.batch()


def test_large_entries_are_bounded_by_their_size() -> None:
    spool = Spool()
    for number in range(600):
        spool.add(entry(number, summary="x" * 4000))
    assert len(spool.content()) <= MOST_BYTES + 100
    assert spool.batch()[0].left_out == 600 - len(spool)


def test_entry_that_went_while_it_was_sent_is_not_removed_twice() -> None:
    spool = filled(MOST_ENTRIES)
    batch = spool.batch()
    spool.add(entry(MOST_ENTRIES))
    spool.remove(batch)
    assert len(spool) == MOST_ENTRIES - MOST_REPORTED + 1
    assert ids(spool)[0] == MOST_REPORTED
