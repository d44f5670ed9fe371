"""Messages and revisions of records."""

from __future__ import annotations

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.store.errors import MalformedRecord
from devopsellence.store.record import Record, message_of, revision_of


def test_record_with_message() -> None:
    record = Record("k", pb.Node(name="n1"), None, 3, 7)
    assert message_of(record) == pb.Node(name="n1")
    assert revision_of(record) == 7


def test_unreadable_record_has_only_a_revision() -> None:
    record: Record[pb.Node] = Record("k", None, MalformedRecord("k", "Node", "no JSON"), 3, 7)
    assert message_of(record) is None
    assert revision_of(record) == 7


def test_missing_key_has_revision_0() -> None:
    record: Record[pb.Node] | None = None
    assert message_of(record) is None
    assert revision_of(record) == 0
