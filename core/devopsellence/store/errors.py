"""What can go wrong between a program and etcd, in our own types.

``etcd.py`` raises these ``from`` the client's errors; nothing else in the project sees a gRPC status.
"""

from __future__ import annotations


class StoreError(Exception):
    """Base of everything here."""


class Unavailable(StoreError):
    """No endpoint answered in time. Nothing was written, or the call was a read. Worth retrying."""


class Ambiguous(StoreError):
    """A write got no answer: it may or may not have happened. Read back before retrying."""


class Unauthenticated(StoreError):
    """etcd does not accept the credential (also after authenticating again)."""


class PermissionDenied(StoreError):
    """etcd knows who asks and says no."""


class NoSpace(StoreError):
    """etcd has raised its NOSPACE alarm and refuses writes: compact, defragment, disarm."""


class Compacted(StoreError):
    """The revision asked for is gone; list again. ``revision`` is the oldest that is left, 0 if unknown."""

    def __init__(self, revision: int = 0) -> None:
        super().__init__(f"the revision asked for has been compacted (oldest left: {revision or 'unknown'})")
        self.revision = revision


class WatchLost(StoreError):
    """The watch ended: stream broken, cancelled by the server, or the cluster is another one. Watch again."""


class LeaseLost(StoreError):
    """The lease expired or was revoked; what was bound to it is gone."""


class Fenced(StoreError):
    """The writer no longer leads: its transaction was refused and nothing was written."""


class Rejected(StoreError):
    """etcd refuses the request as it stands (too large, a key twice in one transaction, …). Retrying cannot help."""


class MalformedRecord(StoreError):
    """A value that does not parse. Stops its own key only."""

    def __init__(self, key: str, kind: str, reason: str) -> None:
        super().__init__(f"{key} does not hold a readable {kind}: {reason}")
        self.key = key
        self.kind = kind
        self.reason = reason
