"""Mapping of failed etcd requests to this package's errors. Pure: gRPC status codes are given by name.

The texts are those of etcd's ``api/v3rpc/rpctypes/error.go`` (3.4 to 3.6). gRPC codes alone are ambiguous:
INVALID_ARGUMENT means a missing credential as well as a transaction that is too long.
"""

from __future__ import annotations

from typing import Final

from devopsellence.store.errors import (
    Ambiguous,
    Compacted,
    LeaseLost,
    NoSpace,
    NotServed,
    PermissionDenied,
    Rejected,
    StoreError,
    Unauthenticated,
    Unavailable,
)


class AuthenticationOff(Rejected):
    """Authentication is not enabled in the cluster."""


class NotProcessed(Unavailable):
    """Request rejected unprocessed by a member: another member, or the same a moment later, may serve the request."""


class AuthenticationChanged(Unauthenticated):
    """Users or roles changed during the request; the request was not carried out."""


#: Texts of gRPC for a channel without a connection: such a write was never sent.
_NOT_SENT: Final = ("connections to all backends failing", "failed to connect to all addresses")
#: The token or credential is not valid (any more); with a password, authenticating again may help.
_CREDENTIAL: Final = (
    "etcdserver: invalid auth token",
    "etcdserver: user name is empty",
    "etcdserver: authentication failed",
)
_BY_TEXT: Final[tuple[tuple[str, type[StoreError]], ...]] = (
    *((text, Unauthenticated) for text in _CREDENTIAL),
    ("auth: revision in header is old", AuthenticationChanged),
    ("etcdserver: revision of auth store is old", AuthenticationChanged),
    ("etcdserver: no leader", NotProcessed),
    ("etcdserver: not leader", NotProcessed),
    ("etcdserver: too many requests", NotProcessed),
    ("etcdserver: permission denied", PermissionDenied),
    ("etcdserver: mvcc: database space exceeded", NoSpace),
    ("etcdserver: mvcc: required revision has been compacted", Compacted),
    ("etcdserver: requested lease not found", LeaseLost),
    ("etcdserver: too many operations in txn request", Rejected),
    ("etcdserver: duplicate key given in txn request", Rejected),
    ("etcdserver: request is too large", Rejected),
    ("received message larger than max", Rejected),
    ("etcdserver: authentication is not enabled", AuthenticationOff),
)
#: gRPC codes for "no answer": the request may have been carried out.
_UNANSWERED: Final = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "UNKNOWN", "INTERNAL", "ABORTED"})
_BY_CODE: Final[dict[str, type[StoreError]]] = {
    "UNAUTHENTICATED": Unauthenticated,
    "PERMISSION_DENIED": PermissionDenied,
    "INVALID_ARGUMENT": Rejected,
    "FAILED_PRECONDITION": Rejected,
    "OUT_OF_RANGE": Rejected,
    "NOT_FOUND": Rejected,
    "ALREADY_EXISTS": Rejected,
    "UNIMPLEMENTED": NotServed,
}
_REMEDY: Final[dict[type[StoreError], str]] = {
    NoSpace: " (free space, then: etcdctl compact, etcdctl defrag, etcdctl alarm disarm)",
}


def classify(code: str, detail: str, *, what: str, write: bool) -> StoreError:
    """Return the error for a failed request.

    Args:
        code: gRPC status code by name, such as ``"UNAVAILABLE"``; DEADLINE_EXCEEDED also for the client's own timeout.
        detail: details of the gRPC status, containing etcd's text.
        what: the request, such as ``"put /devopsellence/v1/nodes/n1 at 127.0.0.1:2379"``; begins the message.
        write: the request changes data, so no answer means :class:`Ambiguous`.
    """
    for text, kind in _BY_TEXT:
        if text in detail:
            return Compacted() if kind is Compacted else kind(f"{what}: {detail}{_REMEDY.get(kind, '')}")
    if any(text in detail for text in _NOT_SENT):
        return Unavailable(f"{what}: {detail}")
    if code in _BY_CODE:
        return _BY_CODE[code](f"{what}: {detail}")
    reason = f"{what}: {detail or code.lower().replace('_', ' ')}"
    if write and code in _UNANSWERED:
        return Ambiguous(f"{reason}; it may have happened")
    # Includes codes never seen so far: the informer and the other loops retry, a person reads the text.
    return Unavailable(reason)
