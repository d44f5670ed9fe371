"""Gives events their keys and the lease with which they age out.

An event is for people and must never hold up what it tells of: a program that cannot have a lease goes on without.
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

LEASE_TTL_SECONDS: Final = 24 * 3600
# Events of one hour share a lease, which nobody keeps alive; they are there for 23 to 24 hours.
LEASE_SHARED_SECONDS: Final = 3600.0
_log = logging.getLogger(__name__)


def event_id(at: datetime, place: int = 0) -> str:
    """An id of no other event. All writers' events sort by time; ``place`` keeps what is said at once in order."""
    return f"{int(at.timestamp() * 1000):013d}-{place:03d}-{secrets.token_hex(6)}"


class LeaseGranter(Protocol):
    """What grants leases: etcd.Etcd."""

    keys: Keys

    async def grant_lease(self, ttl: int) -> int: ...


class EventWriter:
    """Where a long-running program's events go."""

    def __init__(self, etcd: LeaseGranter) -> None:
        self._etcd = etcd
        # 0: none was granted yet, or the last one is not to be used any more.
        self._lease = 0
        self._granted_at = 0.0

    async def puts(self, ref: EnvironmentRef, events: Sequence[Event], wall: datetime, monotonic: float) -> list[Put]:
        """What stores ``events`` at this moment, given on both clocks (``monotonic`` in seconds).

        Nothing if there is no lease to be had.
        """
        if not events:
            return []
        try:
            lease = await self._current_lease(monotonic)
        except StoreError as error:
            _log.warning("events not stored", extra={"environment": str(ref), "reason": str(error)})
            return []
        keys = [self._etcd.keys.event(ref, event_id(wall, place)) for place in range(len(events))]
        return [Put(key, encode(event), lease) for key, event in zip(keys, events, strict=True)]

    def forget_lease(self) -> None:
        """The lease was refused: the next events get another."""
        self._lease = 0

    async def _current_lease(self, monotonic: float) -> int:
        if not self._lease or monotonic - self._granted_at >= LEASE_SHARED_SECONDS:
            self._lease = await self._etcd.grant_lease(LEASE_TTL_SECONDS)
            self._granted_at = monotonic
        return self._lease
