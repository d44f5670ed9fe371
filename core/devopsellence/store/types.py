"""Plain frozen data of the etcd client: key values, listings, watch events, transactions. No IO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

#: Limit of compares, and of operations, in one transaction. etcd's default limit is 128 of each (--max-txn-ops); the
#: difference leaves room for the fence.
MAX_OPERATIONS: Final = 100


@dataclass(frozen=True, slots=True)
class KeyValue:
    """Key and value in etcd. ``lease`` is 0 for none; ``version`` counts the writes since the creation of the key.

    Bytes of a key that are not UTF-8 appear as ``\\xff``: such a key can be shown, and is never a key of this project.
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
    #: Raft term at the time of the read. Like the revision, the term decreases only if etcd was restored or replaced.
    raft_term: int = 0


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """Write (``kv``) or deletion (None) of a key at ``mod_revision``."""

    key: str
    kv: KeyValue | None
    mod_revision: int


@dataclass(frozen=True, slots=True)
class WatchBatch:
    """Response on a watch stream.

    ``events`` may be empty. ``revision`` is the current revision of the *store*, from the header: ahead of the events
    while a watch catches up. Only with ``progress`` have all events up to ``revision`` been delivered.
    """

    revision: int
    cluster_id: int
    events: tuple[WatchEvent, ...]
    progress: bool = False


@dataclass(frozen=True, slots=True)
class Compare:
    """Condition of a transaction, built by the class methods."""

    key: str
    target: Literal["create_revision", "mod_revision"]
    revision: int
    equal: bool = True

    @classmethod
    def absent(cls, key: str) -> Compare:
        """Require: ``key`` does not exist."""
        return cls(key, "create_revision", 0)

    @classmethod
    def exists(cls, key: str) -> Compare:
        """Require: ``key`` exists."""
        return cls(key, "create_revision", 0, equal=False)

    @classmethod
    def unmodified(cls, key: str, mod_revision: int) -> Compare:
        """Require: ``key`` was last written at ``mod_revision`` (0: does not exist)."""
        return cls(key, "mod_revision", mod_revision)

    @classmethod
    def created_at(cls, key: str, create_revision: int) -> Compare:
        """Require: ``key`` was created at ``create_revision``, not deleted and created again since."""
        return cls(key, "create_revision", create_revision)


@dataclass(frozen=True, slots=True)
class Put:
    """Write of ``value`` at ``key``, bound to ``lease`` unless 0."""

    key: str
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """Deletion of ``key``, if the key exists; of all keys under ``key`` if it ends with ``/``."""

    key: str


@dataclass(frozen=True, slots=True)
class TxnResult:
    """Result of a transaction. ``succeeded``: the operations were applied, at ``revision``; otherwise none was."""

    succeeded: bool
    revision: int


@dataclass(frozen=True, slots=True)
class Member:
    """Status of the etcd member that answered: version, cluster and alarms of the cluster (such as ``NOSPACE``).

    ``leader`` is the ``id`` of the raft leader according to this member, 0 for none. In bytes, 0 if etcd does not
    report the value: ``size`` of the database file, ``used`` part of the file, ``quota`` at which etcd raises NOSPACE.
    """

    version: str
    cluster_id: int
    alarms: tuple[str, ...]
    id: int = 0
    leader: int = 0
    size: int = 0
    used: int = 0
    quota: int = 0
