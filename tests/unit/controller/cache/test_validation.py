"""Records whose names differ from their keys."""

from __future__ import annotations

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.cache.validation import (
    checked_certificate,
    checked_environment,
    checked_node,
    checked_secret,
)
from devopsellence.store.record import M, Record
from tests.unit.controller.builders import REF, node, secret


def record(message: M) -> Record[M]:
    return Record("/t/k", message, None, 3, 7)


def test_record_of_its_key_is_unchanged() -> None:
    stored_node, stored_secret = record(node("n1")), record(secret("web", "A", 1))
    assert checked_node(stored_node, "n1") is stored_node
    assert checked_secret(stored_secret, REF, "web", "A") is stored_secret
    assert checked_node(None, "n1") is None


def test_empty_document_is_unreadable_at_the_same_revision() -> None:
    for checked in (
        checked_node(record(pb.Node()), "n1"),
        checked_environment(record(pb.Environment()), REF),
        checked_secret(record(pb.Secret()), REF, "web", "A"),
        checked_certificate(record(pb.Certificate()), REF, "app.example.com"),
    ):
        assert checked is not None
        assert checked.message is None
        assert checked.error is not None
        assert (checked.create_revision, checked.mod_revision) == (3, 7)


def test_secret_without_a_version_is_unreadable() -> None:
    checked = checked_secret(record(secret("web", "A")), REF, "web", "A")
    assert checked is not None
    assert checked.error is not None
