"""Records that belong together, kept up to date with each change."""

from __future__ import annotations

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.cache.grouped import GroupedRecords
from devopsellence.store.record import Record


def record(revision: int) -> Record[pb.Certificate]:
    return Record("key", pb.Certificate(), None, 1, revision)


def test_group_is_there_as_long_as_record_is() -> None:
    groups: GroupedRecords[str, str, pb.Certificate] = GroupedRecords()
    groups.set("a", "one", record(1))
    groups.set("a", "two", record(2))
    groups.set("a", "one", None)
    assert list(groups) == ["a"]
    assert groups.of("a") == {"two": record(2)}
    groups.set("a", "two", None)
    assert list(groups) == []
    assert "a" not in groups
    assert groups.of("a") == {}


def test_unknown_key_may_be_removed() -> None:
    groups: GroupedRecords[str, str, pb.Certificate] = GroupedRecords()
    groups.set("a", "one", None)
    assert list(groups) == []


def test_returned_groups_do_not_change() -> None:
    groups: GroupedRecords[str, str, pb.Certificate] = GroupedRecords()
    groups.set("a", "one", record(1))
    shown = groups.of("a")
    groups.set("a", "one", record(2))
    groups.set("a", "two", record(3))
    assert shown == {"one": record(1)}
    assert groups.of("a") == {"one": record(2), "two": record(3)}


def test_same_object_means_that_nothing_has_changed() -> None:
    groups: GroupedRecords[str, str, pb.Certificate] = GroupedRecords()
    groups.set("a", "one", record(1))
    shown = groups.of("a")
    groups.set("b", "one", record(2))
    assert groups.of("a") is shown
    groups.set("a", "one", record(1))
    assert groups.of("a") is not shown
