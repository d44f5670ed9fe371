"""Fenced writes: transactions of the leader, each with its preconditions and its events."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import structlog
from google.protobuf.message import Message

from devopsellence.api.v1.stored_pb2 import Event
from devopsellence.clock import Now
from devopsellence.store.errors import LeaseLost
from devopsellence.store.etcd import Compare, Delete, Put, TxnResult
from devopsellence.store.events import EventWriter
from devopsellence.store.keys import EnvironmentRef

#: Key, value and message of a write.
Written = tuple[str, bytes, Message]
_log = structlog.get_logger()


class Outdated(Exception):
    """A key was written in the meantime. Nothing was overwritten; read and decide again."""


class Fence(Protocol):
    """Transactions that fail once another controller leads: election.Leadership."""

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Put | Delete]) -> TxnResult: ...


class FencedWriter:
    """Writes of one leader to etcd."""

    def __init__(self, fence: Fence, expect: Callable[[Iterable[Written]], None], events: EventWriter) -> None:
        """``expect`` is called before each transaction, so that informers recognise the writes of this leader."""
        self._fence = fence
        self._expect = expect
        self._events = events

    async def event_puts(self, ref: EnvironmentRef, events: Sequence[Event], now: Now) -> list[Put]:
        """Return the operations that store ``events``; empty if etcd grants no lease."""
        return await self._events.puts(ref, events, now.utc, now.mono)

    async def commit(
        self,
        compares: Sequence[Compare],
        operations: Sequence[Put | Delete],
        written: Sequence[Written],
        outdated: str,
    ) -> None:
        """Carry out one transaction; ``written`` are the writes among ``operations`` whose keys informers hold.

        Raises:
            Outdated: a compare failed; the message is ``outdated``.
            Fenced: another controller leads.
            StoreError: etcd could not be written. The write may have happened.
        """
        self._expect(written)
        try:
            result = await self._fence.txn(compares, operations)
        except LeaseLost:
            self._events.forget_lease()
            raise
        if not result.succeeded:
            raise Outdated(outdated)


def log_events(ref: EnvironmentRef, events: Sequence[Event], **fields: str) -> None:
    """Log ``events``, which have been stored, each with its severity."""
    for event in events:
        level = {Event.WARNING: _log.warning, Event.ERROR: _log.error}.get(event.severity, _log.info)
        numbered = {"release": event.release} if event.release else {}
        level("decided", environment=str(ref), **fields, code=event.code, **numbered, reason=event.message)
