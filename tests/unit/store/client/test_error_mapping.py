"""Mapping of failed requests to errors, with the texts of etcd 3.4 to 3.6."""

from __future__ import annotations

import pytest

from devopsellence.store.client.error_mapping import (
    AuthenticationChanged,
    AuthenticationOff,
    NotProcessed,
    classify,
)
from devopsellence.store.errors import (
    Ambiguous,
    Compacted,
    LeaseLost,
    NoSpace,
    PermissionDenied,
    Rejected,
    StoreError,
    Unauthenticated,
    Unavailable,
)

ALIKE = [
    ("UNAUTHENTICATED", "etcdserver: invalid auth token", Unauthenticated),
    ("INVALID_ARGUMENT", "etcdserver: user name is empty", Unauthenticated),
    ("INVALID_ARGUMENT", "etcdserver: authentication failed, invalid user ID or password", Unauthenticated),
    ("UNKNOWN", "auth: revision in header is old", AuthenticationChanged),
    ("UNKNOWN", "rpc error: code = InvalidArgument desc = etcdserver: user name is empty", Unauthenticated),
    ("PERMISSION_DENIED", "etcdserver: permission denied", PermissionDenied),
    ("UNAVAILABLE", "rpc error: code = PermissionDenied desc = etcdserver: permission denied", PermissionDenied),
    ("RESOURCE_EXHAUSTED", "etcdserver: mvcc: database space exceeded", NoSpace),
    ("OUT_OF_RANGE", "etcdserver: mvcc: required revision has been compacted", Compacted),
    ("NOT_FOUND", "etcdserver: requested lease not found", LeaseLost),
    ("INVALID_ARGUMENT", "etcdserver: too many operations in txn request", Rejected),
    ("INVALID_ARGUMENT", "etcdserver: duplicate key given in txn request", Rejected),
    ("INVALID_ARGUMENT", "etcdserver: request is too large", Rejected),
    ("RESOURCE_EXHAUSTED", "grpc: received message larger than max (3 vs. 2)", Rejected),
    ("FAILED_PRECONDITION", "etcdserver: authentication is not enabled", AuthenticationOff),
    # Refused before etcd looked at the request.
    ("UNAVAILABLE", "etcdserver: no leader", NotProcessed),
    ("RESOURCE_EXHAUSTED", "etcdserver: too many requests", NotProcessed),
    ("UNAVAILABLE", "connections to all backends failing; last error: Connection refused", Unavailable),
    ("UNAVAILABLE", "failed to connect to all addresses", Unavailable),
]
UNANSWERED = [
    ("UNAVAILABLE", "Socket closed"),
    ("UNAVAILABLE", "etcdserver: request timed out, possibly due to previous leader failure"),
    ("UNAVAILABLE", "etcdserver: server stopped"),
    ("UNAVAILABLE", "etcdserver: leader changed"),
    ("DEADLINE_EXCEEDED", ""),
    ("UNKNOWN", "etcdserver: something new"),
    ("INTERNAL", "stream terminated by RST_STREAM"),
]


@pytest.mark.parametrize("write", [False, True])
@pytest.mark.parametrize(("code", "detail", "kind"), ALIKE)
def test_refusals_map_alike_for_reads_and_writes(
    code: str, detail: str, kind: type[StoreError], *, write: bool
) -> None:
    error = classify(code, detail, what="write /a", write=write)
    assert type(error) is kind
    if kind is not Compacted:
        assert str(error).startswith("write /a: ")


@pytest.mark.parametrize(("code", "detail"), UNANSWERED)
def test_missing_answer_is_ambiguous_only_for_writes(code: str, detail: str) -> None:
    assert type(classify(code, detail, what="write /a", write=True)) is Ambiguous
    assert type(classify(code, detail, what="read /a", write=False)) is Unavailable


def test_error_messages_name_a_fix() -> None:
    assert "it may have happened" in str(classify("DEADLINE_EXCEEDED", "", what="write /a", write=True))
    assert str(classify("DEADLINE_EXCEEDED", "", what="read /a", write=False)) == "read /a: deadline exceeded"
    full = classify("RESOURCE_EXHAUSTED", "etcdserver: mvcc: database space exceeded", what="write /a", write=True)
    assert "etcdctl defrag" in str(full)
