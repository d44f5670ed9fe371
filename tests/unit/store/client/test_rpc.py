"""Conversion of keys, compares and batches to etcd messages."""

from __future__ import annotations

import pytest

from devopsellence.etcd.v3 import etcd_pb2 as rpc
from devopsellence.store.client.rpc import compare_message, key_range, key_value, operation_message
from devopsellence.store.election import batches
from devopsellence.store.etcd import MAX_OPERATIONS, Compare, Delete


def test_prefix_ends_where_its_slash_does() -> None:
    assert key_range("/p/nodes/") == (b"/p/nodes/", b"/p/nodes0")
    assert key_range("/p/nodes/n1") == (b"/p/nodes/n1", b"")


@pytest.mark.parametrize(("key", "end"), [("/p/nodes/n1", b""), ("/p/secrets/a/b/c/", b"/p/secrets/a/b/c0")])
def test_deletion_of_a_key_deletes_no_other_and_that_of_a_prefix_all_below(key: str, end: bytes) -> None:
    request = operation_message(Delete(key)).request_delete_range
    assert (request.key, request.range_end) == (key.encode(), end)


def test_non_text_key_can_be_shown() -> None:
    assert key_value(rpc.KeyValue(key=b"/p/\xff")).key == "/p/\\xff"


@pytest.mark.parametrize(
    ("compare", "target", "revision", "result"),
    [
        (Compare.absent("/k"), "create_revision", 0, 0),
        (Compare.exists("/k"), "create_revision", 0, 3),
        (Compare.unmodified("/k", 7), "mod_revision", 7, 0),
        (Compare.created_at("/k", 7), "create_revision", 7, 0),
    ],
)
def test_compares(compare: Compare, target: str, revision: int, result: int) -> None:
    message = compare_message(compare)
    assert (message.key, message.result) == (b"/k", result)
    assert message.WhichOneof("target_union") == target
    assert getattr(message, target) == revision


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (1, [1]), (100, [100]), (101, [100, 1]), (250, [100, 100, 50])])
def test_batches(count: int, sizes: list[int]) -> None:
    operations = [Delete(f"/{number}") for number in range(count)]
    made = list(batches(operations))
    assert [len(each) for each in made] == sizes
    assert [operation for each in made for operation in each] == operations
    assert MAX_OPERATIONS == 100
