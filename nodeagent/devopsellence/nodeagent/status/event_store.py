"""Events of one environment: each stored once, in the request that writes the status which they tell of if possible."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime

import structlog

from devopsellence.api.v1.stored_pb2 import AssignmentStatus, Event
from devopsellence.nodeagent.status.events import events, with_last_container
from devopsellence.store.election import batches
from devopsellence.store.errors import Ambiguous, LeaseLost, StoreError, Unavailable
from devopsellence.store.etcd import MAX_OPERATIONS, Etcd, Put
from devopsellence.store.events import EventWriter
from devopsellence.store.keys import EnvironmentRef

_log = structlog.get_logger()


class EventStore:
    """Events of an environment; calls must not overlap. Best effort: no status waits for an event."""

    def __init__(self, etcd: Etcd, ref: EnvironmentRef, writer: EventWriter) -> None:
        self._etcd = etcd
        self._ref = ref
        self._writer = writer
        # Status up to which events are stored, or were sent.
        self._until: AssignmentStatus | None = None
        # Events whose request was not answered.
        self._unanswered: Sequence[Put] = ()

    async def write_with(self, put: Put, status: AssignmentStatus, shown: AssignmentStatus | None) -> None:
        """Write ``status`` as ``put``, and its events with it if there is a lease for them; :meth:`store` comes next.

        ``shown``: the status in etcd.

        Raises:
            StoreError: the status is not written, or may not be.
        """
        before = self._until or shown
        joined = await self._puts(events(before, status)) if self._can_join() else []
        if not joined or len(joined) >= MAX_OPERATIONS:
            await self._etcd.put(put.key, put.value)
            return
        former, self._until = self._until, with_last_container(before, status)
        try:
            await self._etcd.txn([], [put, *joined])
        except (Unavailable, Ambiguous):
            # Sent again under the same keys, so that none is stored twice.
            self._unanswered = joined
            raise
        except StoreError as error:
            # Nothing is written, and the status may be accepted without events.
            self._until = former
            if isinstance(error, LeaseLost):
                self._writer.forget_lease()
            await self._etcd.put(put.key, put.value)

    async def store(self, status: AssignmentStatus, shown: AssignmentStatus | None) -> None:
        """Store the events up to ``status``, which has been written, unless they were written with it."""
        unanswered, self._unanswered = self._unanswered, ()
        before = self._until or shown
        self._until = with_last_container(before, status)
        new = events(before, status)
        try:
            if unanswered:
                await self._etcd.txn([], unanswered)
            try:
                await self._put(new)
            except LeaseLost:
                # Revoked by hand, or lost with a restored etcd: none of the events is stored.
                self._writer.forget_lease()
                await self._put(new)
        except StoreError as error:
            self._writer.forget_lease()
            _log.warning("events not stored", env=str(self._ref), error=str(error))

    def _can_join(self) -> bool:
        return not self._unanswered and self._writer.has_lease(time.monotonic())

    async def _put(self, new: Sequence[Event]) -> None:
        for batch in batches(await self._puts(new)):
            await self._etcd.txn([], batch)

    async def _puts(self, new: Sequence[Event]) -> list[Put]:
        now = datetime.now(UTC)
        for event in new:
            event.at.FromDatetime(now)
        return await self._writer.puts(self._ref, new, now, time.monotonic())
