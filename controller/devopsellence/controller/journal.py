"""Gives the controller's events their keys and the lease with which they age out."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Final, Protocol

import structlog

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.world import Moment
from devopsellence.store.errors import StoreError
from devopsellence.store.etcd import Put
from devopsellence.store.keys import EnvironmentRef, Keys
from devopsellence.store.records import encode

LEASE_TTL_SECONDS: Final = 24 * 3600
# Events of one hour share a lease, which nobody keeps alive; they are there for 23 to 24 hours.
LEASE_SHARED_SECONDS: Final = 3600.0
_log = structlog.get_logger()


class Leases(Protocol):
    """What grants leases: store.etcd.Etcd."""

    keys: Keys

    async def grant_lease(self, ttl: int) -> int: ...


class Journal:
    """Where a leader's events go."""

    def __init__(self, etcd: Leases) -> None:
        self._etcd = etcd
        # 0: none was granted yet, or the last one is not to be used any more.
        self._lease = 0
        self._granted_at = 0.0

    async def puts(self, ref: EnvironmentRef, events: Sequence[pb.Event], now: Moment) -> list[Put]:
        """What stores ``events``; nothing if no lease can be had, because an event must never hold up a decision."""
        if not events:
            return []
        try:
            lease = await self._current_lease(now)
        except StoreError as error:
            _log.warning("events not stored", environment=str(ref), reason=str(error))
            return []
        # Milliseconds in front sort all writers' events alike; the random end keeps apart what is said at once.
        stem = f"{int(now.wall.timestamp() * 1000):013d}"
        keys = [
            self._etcd.keys.event(ref, f"{stem}-{place:03d}-{secrets.token_hex(4)}") for place in range(len(events))
        ]
        return [Put(key, encode(event), lease) for key, event in zip(keys, events, strict=True)]

    def forget_lease(self) -> None:
        """The lease was refused: the next events get another."""
        self._lease = 0

    async def _current_lease(self, now: Moment) -> int:
        if not self._lease or now.monotonic - self._granted_at >= LEASE_SHARED_SECONDS:
            self._lease = await self._etcd.grant_lease(LEASE_TTL_SECONDS)
            self._granted_at = now.monotonic
        return self._lease
