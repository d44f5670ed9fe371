"""Errors of access to etcd.

``etcd.py`` raises these errors ``from`` the client's; no other part of the project sees a gRPC status.
"""

from __future__ import annotations


class StoreError(Exception):
    """Base class of all errors of the store."""


class Unavailable(StoreError):
    """No endpoint answered in time; nothing was written. Worth retrying."""


class NotServed(Unavailable):
    """The endpoint does not serve the method: etcd itself, or a gateway without what it needs for it."""


class Ambiguous(StoreError):
    """No answer to a write: the write may or may not have happened. Read back before retrying."""


class Unauthenticated(StoreError):
    """Credential not accepted by etcd (also after authenticating again)."""


class PermissionDenied(StoreError):
    """Request denied to the authenticated user."""


class NoSpace(StoreError):
    """NOSPACE alarm: etcd rejects writes until an operator compacts, defragments and disarms."""


class Compacted(StoreError):
    """Requested revision has been compacted: list again. ``revision`` is the oldest one left, 0 if unknown."""

    def __init__(self, revision: int = 0) -> None:
        super().__init__(f"the revision asked for has been compacted (oldest left: {revision or 'unknown'})")
        self.revision = revision


class WatchLost(StoreError):
    """End of a watch: stream broken, watch cancelled by etcd, or another cluster. Watch again."""


class LeaseLost(StoreError):
    """Lease expired or revoked; all keys bound to the lease are deleted."""


class Fenced(StoreError):
    """Writer is no longer the leader: the transaction was rejected, nothing was written."""


class Rejected(StoreError):
    """Request invalid for etcd (too large, a key twice in one transaction, …). Retrying cannot help."""


class MalformedRecord(StoreError):
    """Value that cannot be decoded. Affects only the one key."""

    def __init__(self, key: str, kind: str, reason: str) -> None:
        super().__init__(f"{key} does not hold a readable {kind}: {reason}")
        self.key = key
        self.kind = kind
        self.reason = reason


def first_error(group: BaseExceptionGroup[StoreError]) -> StoreError:
    """Return the first error of a group and of the groups in it."""
    first = group.exceptions[0]
    return first_error(first) if isinstance(first, BaseExceptionGroup) else first
