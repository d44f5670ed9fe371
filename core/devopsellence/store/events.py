"""Storing of events: keys, and leases that make events expire after a day.

Events are for people and must never delay the action reported: without a lease, a program drops the events.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Final, Protocol

from devopsellence.api.v1.stored_pb2 import Event
from devopsellence.store.codec import encode
from devopsellence.store.errors import StoreError
from devopsellence.store.etcd import Put
from devopsellence.store.keys import EnvironmentRef, Keys
from devopsellence.store.size import bounded

LEASE_TTL_SECONDS: Final = 24 * 3600
# All events of one hour share a lease without keepalive, and so last for 23 to 24 hours.
LEASE_SHARED_SECONDS: Final = 3600.0
_log = logging.getLogger(__name__)


def event_id(at: datetime, position: int = 0) -> str:
    """Return a unique id. Ids of all writers sort by time; ``position`` orders events of the same moment."""
    return f"{int(at.timestamp() * 1000):013d}-{position:03d}-{secrets.token_hex(6)}"


class LeaseGranter(Protocol):
    """Grant of leases, implemented by ``etcd.Etcd``."""

    keys: Keys

    async def grant_lease(self, ttl: int) -> int: ...


class EventWriter:
    """Event sink of a long-running program."""

    def __init__(self, etcd: LeaseGranter) -> None:
        self._etcd = etcd
        # 0: no lease granted yet, or the last lease must not be used any more.
        self._lease = 0
        self._granted_at = 0.0

    async def puts(self, ref: EnvironmentRef, events: Sequence[Event], wall: datetime, monotonic: float) -> list[Put]:
        """Return the operations that store ``events`` at the given time (``monotonic`` in seconds).

        Empty if etcd grants no lease.
        """
        if not events:
            return []
        try:
            lease = await self._current_lease(monotonic)
        except StoreError as error:
            _log.warning("events not stored", extra={"environment": str(ref), "reason": str(error)})
            return []
        keys = [self._etcd.keys.event(ref, event_id(wall, position)) for position in range(len(events))]
        return [Put(key, encode(bounded(event)), lease) for key, event in zip(keys, events, strict=True)]

    def has_lease(self, monotonic: float) -> bool:
        """Return True if :meth:`puts` at that time asks etcd for nothing."""
        return bool(self._lease) and monotonic - self._granted_at < LEASE_SHARED_SECONDS

    def forget_lease(self) -> None:
        """Drop a lease rejected by etcd: the next events get a new lease."""
        self._lease = 0

    async def _current_lease(self, monotonic: float) -> int:
        if not self.has_lease(monotonic):
            self._lease = await self._etcd.grant_lease(LEASE_TTL_SECONDS)
            self._granted_at = monotonic
        return self._lease
