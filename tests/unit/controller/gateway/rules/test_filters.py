"""Answers without the keys that a caller may not read."""

from __future__ import annotations

import pytest

from devopsellence.controller.gateway.rules import filters
from devopsellence.controller.gateway.rules.grants import Grants, KeyPattern
from devopsellence.etcd.v3 import etcd_pb2 as rpc

GRANTS = Grants(b"/v1/", read=(KeyPattern(("a",)),))


def answer(*keys: str) -> rpc.RangeResponse:
    kvs = [rpc.KeyValue(key=f"/v1/{key}".encode(), value=key.encode()) for key in keys]
    return rpc.RangeResponse(header=rpc.ResponseHeader(revision=7), kvs=kvs, count=len(kvs))


@pytest.mark.parametrize(
    ("request_fields", "shown", "more", "count"),
    [
        ({}, ["a/1", "a/2", "a/3"], False, 3),
        ({"limit": 2}, ["a/1", "a/2"], True, 3),
        ({"limit": 3}, ["a/1", "a/2", "a/3"], False, 3),
        ({"count_only": True}, [], False, 3),
        ({"count_only": True, "limit": 1}, [], False, 3),
    ],
)
def test_limit_more_and_count_are_about_readable_keys(
    request_fields: dict[str, int], shown: list[str], more: bool, count: int
) -> None:
    request = rpc.RangeRequest(key=b"/v1/", range_end=b"/v10", **request_fields)  # type: ignore[arg-type]
    found = filters.filtered_answer(request, answer("a/1", "b/1", "a/2", "b/2", "a/3"), GRANTS)
    assert [kv.value.decode() for kv in found.kvs] == shown
    assert (found.more, found.count, found.header.revision) == (more, count, 7)


def test_read_stays_within_the_prefix_and_has_no_limit() -> None:
    request = rpc.RangeRequest(key=b"\0", range_end=b"\0", limit=5, count_only=True)
    whole = filters.unfiltered_request(request, GRANTS, keys_only=False)
    assert (whole.key, whole.range_end, whole.limit, whole.count_only, whole.keys_only) == (
        b"/v1/",
        b"/v10",
        0,
        False,
        True,
    )


def test_values_of_a_page_are_read_at_its_revision() -> None:
    request = rpc.RangeRequest(key=b"/v1/", range_end=b"/v10", limit=2)
    assert filters.needs_keys_first(request)
    page = filters.filtered_answer(request, answer("a/1", "b/1", "a/2", "a/3"), GRANTS)
    values = filters.page_request(request, page)
    assert (values.key, values.range_end, values.limit, values.revision) == (b"/v1/a/1", b"/v1/a/2\0", 0, 7)
    found = filters.with_values(page, answer("a/1", "b/1", "a/2"))
    assert [kv.value for kv in found.kvs] == [b"a/1", b"a/2"]
    assert (found.more, found.count) == (True, 3)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"limit": 2, "keys_only": True},
        {"limit": 2, "sort_order": rpc.RangeRequest.DESCEND},
        {"limit": 2, "sort_target": rpc.RangeRequest.MOD},
    ],
)
def test_other_reads_take_one_step(fields: dict[str, int]) -> None:
    assert not filters.needs_keys_first(rpc.RangeRequest(key=b"/v1/", range_end=b"/v10", **fields))  # type: ignore[arg-type]
