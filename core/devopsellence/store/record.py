"""Record: the decoded message of a key, with the revisions of the key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from devopsellence.store.errors import MalformedRecord

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Record(Generic[M]):
    """Content of a key: ``message``, or ``error`` if the value does not parse. Exactly one of the two is None."""

    key: str
    message: M | None
    error: MalformedRecord | None
    create_revision: int
    mod_revision: int


def message_of(record: Record[M] | None) -> M | None:
    """Return the message of ``record``; None if there is no such key or its value does not parse."""
    return record.message if record is not None else None


def revision_of(record: Record[Any] | None) -> int:
    """Return the revision of the last write to the key of ``record``, 0 if there is no such key.

    The result is the ``mod_revision`` for :meth:`Compare.unmodified`.
    """
    return record.mod_revision if record is not None else 0
