"""Removal of keys that the caller may not read from the answers of reads and watches. Pure."""

from __future__ import annotations

from devopsellence.controller.gateway.rules.grants import Grants, KeyRange, Right
from devopsellence.etcd.v3 import etcd_pb2 as rpc


def needs_keys_first(request: rpc.RangeRequest) -> bool:
    """Return True if a filtered read is better done in two steps: keys alone, then the values of the page."""
    sorted_by_key = request.sort_target == rpc.RangeRequest.KEY and request.sort_order != rpc.RangeRequest.DESCEND
    return bool(request.limit) and sorted_by_key and not (request.keys_only or request.count_only)


def unfiltered_request(request: rpc.RangeRequest, grants: Grants, *, keys_only: bool) -> rpc.RangeRequest:
    """Return the read whose answer :func:`filtered_answer` filters: without a limit, within the prefix."""
    whole = rpc.RangeRequest()
    whole.CopyFrom(request)
    clipped = KeyRange(request.key, request.range_end).clipped(grants.prefix)
    if clipped is not None:
        whole.key, whole.range_end = clipped.first, clipped.end
    whole.limit, whole.count_only = 0, False
    whole.keys_only = keys_only or request.keys_only or request.count_only
    return whole


def filtered_answer(request: rpc.RangeRequest, answer: rpc.RangeResponse, grants: Grants) -> rpc.RangeResponse:
    """Return the answer to ``request`` as if only readable keys existed: count, more and limit are about those."""
    readable = [kv for kv in answer.kvs if grants.allow_key(Right.READ, kv.key)]
    page = readable[: request.limit] if request.limit else readable
    return rpc.RangeResponse(
        header=answer.header,
        kvs=() if request.count_only else page,
        more=not request.count_only and len(page) < len(readable),
        count=len(readable),
    )


def page_request(request: rpc.RangeRequest, page: rpc.RangeResponse) -> rpc.RangeRequest:
    """Return the read of the values of the keys in ``page``, at the revision of that answer."""
    values = rpc.RangeRequest()
    values.CopyFrom(request)
    values.key, values.range_end = page.kvs[0].key, page.kvs[-1].key + b"\0"
    values.limit, values.revision = 0, request.revision or page.header.revision
    return values


def with_values(page: rpc.RangeResponse, values: rpc.RangeResponse) -> rpc.RangeResponse:
    """Return ``page`` with the values that were read for its keys."""
    found = {bytes(kv.key): kv for kv in values.kvs}
    kvs = [found[bytes(kv.key)] for kv in page.kvs if bytes(kv.key) in found]
    return rpc.RangeResponse(header=page.header, kvs=kvs, more=page.more, count=page.count)


def readable_events(events: list[rpc.Event], grants: Grants) -> list[rpc.Event]:
    return [event for event in events if grants.allow_key(Right.READ, event.kv.key)]
