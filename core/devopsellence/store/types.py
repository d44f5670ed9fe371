"""What goes into etcd and comes out of it, as plain frozen data. ``etcd.py`` hands these out; nothing here does IO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

#: At most this many compares, and this many operations, in one transaction. etcd's default limit is 128 of each
#: (--max-txn-ops); the difference leaves room for the fence.
MAX_OPERATIONS: Final = 100


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One key as etcd holds it. ``lease`` is 0 where there is none; ``version`` counts the writes since its creation.

    Bytes of a key that are not UTF-8 stand as ``\\xff``: such a key can be shown, and is never a key of ours.
    """

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int


@dataclass(frozen=True, slots=True)
class KeyListing:
    """All keys under a prefix at one revision, sorted by key."""

    items: tuple[KeyValue, ...]
    revision: int
    cluster_id: int
    #: The raft term when it was read. It falls, like the revision, only where another history was put in place.
    raft_term: int = 0


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """A key was written (``kv``) or deleted (None) at ``mod_revision``."""

    key: str
    kv: KeyValue | None
    mod_revision: int


@dataclass(frozen=True, slots=True)
class WatchBatch:
    """One answer on a watch.

    ``events`` may be empty. ``revision`` is the header's: where the *store* stands, which is ahead of the events while
    a watch catches up. Only with ``progress`` does it say that all events up to it have been delivered.
    """

    revision: int
    cluster_id: int
    events: tuple[WatchEvent, ...]
    progress: bool = False


@dataclass(frozen=True, slots=True)
class Compare:
    """A condition of a transaction; made by the class methods."""

    key: str
    target: Literal["create_revision", "mod_revision"]
    revision: int
    equal: bool = True

    @classmethod
    def absent(cls, key: str) -> Compare:
        """``key`` does not exist."""
        return cls(key, "create_revision", 0)

    @classmethod
    def exists(cls, key: str) -> Compare:
        """``key`` exists."""
        return cls(key, "create_revision", 0, equal=False)

    @classmethod
    def unmodified(cls, key: str, mod_revision: int) -> Compare:
        """``key`` was last written at ``mod_revision`` (0: it does not exist)."""
        return cls(key, "mod_revision", mod_revision)

    @classmethod
    def created_at(cls, key: str, create_revision: int) -> Compare:
        """``key`` is still the one that was created at ``create_revision``."""
        return cls(key, "create_revision", create_revision)


@dataclass(frozen=True, slots=True)
class Put:
    """Write ``value`` at ``key``, bound to ``lease`` unless that is 0."""

    key: str
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete ``key``, if it is there."""

    key: str


@dataclass(frozen=True, slots=True)
class TxnResult:
    """``succeeded``: the compares held and the operations were applied, at ``revision``; otherwise nothing was."""

    succeeded: bool
    revision: int


@dataclass(frozen=True, slots=True)
class Member:
    """The etcd member that answered: its version, its cluster, and the cluster's alarms (such as ``NOSPACE``).

    ``leader`` is the ``id`` of the member that leads as this one knows, 0: none. Sizes are in bytes: of the file, of
    what in it is in use, and at which etcd raises the alarm; 0 where it does not tell.
    """

    version: str
    cluster_id: int
    alarms: tuple[str, ...]
    id: int = 0
    leader: int = 0
    size: int = 0
    used: int = 0
    quota: int = 0
