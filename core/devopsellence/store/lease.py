"""Leases: keepalive of all leases on one stream, with a safe local expiry.

A lease counts as held until the TTL has passed since the last *answered* keepalive was *sent*. etcd counts from a later
moment, so a holder never relies on a lease for longer than etcd does. Times are of the loop's (monotonic) clock.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from devopsellence.store.errors import StoreError, Unavailable
from devopsellence.store.etcd import Etcd, KeepaliveStream
from devopsellence.store.retry import repeat

log = logging.getLogger(__name__)

_CLOSE_SECONDS: Final = 2.0
_LONGEST_BACKOFF: Final = 1.0


class Lease:
    """Lease created by :meth:`LeaseKeeper.grant`.

    ``ttl`` is in seconds. ``lost`` is set for good once the lease has ended: revoked, expired, or the TTL has passed
    without an answer from etcd.
    """

    def __init__(self, keeper: LeaseKeeper, lease_id: int, ttl: int, sent: float) -> None:
        self.id = lease_id
        self.ttl = ttl
        self.lost = asyncio.Event()
        self._keeper = keeper
        self._loop = asyncio.get_running_loop()
        # Send times of unanswered keepalives, oldest first; answers arrive in the same order.
        self._unanswered: deque[float] = deque()
        self._due = sent + ttl / 3
        self._deadline = sent + ttl
        self._timer = self._loop.call_at(self._deadline, self._end)

    async def revoke(self) -> None:
        """End the lease, set ``lost``, and delete all keys bound to the lease. Idempotent.

        Raises:
            Unavailable: etcd did not answer; the lease will expire.
        """
        self._end()
        await self._keeper._etcd.revoke_lease(self.id)

    def _end(self) -> None:
        self._timer.cancel()
        self._keeper._drop(self)
        self.lost.set()

    def _reopened(self) -> None:
        """Start over on a new stream: keepalives of the broken stream are never answered."""
        self._unanswered.clear()
        self._due = 0.0

    def _sending(self, now: float) -> None:
        self._unanswered.append(now)
        self._due = now + self.ttl / 3

    def _answered(self, ttl: int) -> None:
        sent = self._unanswered.popleft() if self._unanswered else None
        if ttl == 0 or self.lost.is_set():
            self._end()
        elif sent is not None:
            self._deadline = max(self._deadline, sent + ttl)
            self._timer.cancel()
            # The deadline has passed already if this process was suspended: then the lease ends at once.
            self._timer = self._loop.call_at(self._deadline, self._end)
            if self._deadline <= self._loop.time():
                self._end()

    @property
    def _overdue(self) -> float:
        """Time at which to give up the stream; leaves time to try another member."""
        return self._unanswered[0] + self.ttl / 2 if self._unanswered else float("inf")


class LeaseKeeper:
    """Keeper of all leases granted through :meth:`grant`, on one stream that is reopened when broken.

    An async context manager; on exit the remaining leases are revoked, for at most two seconds.
    """

    def __init__(self, etcd: Etcd) -> None:
        self._etcd = etcd
        self._leases: dict[int, Lease] = {}
        # Wakes the sender.
        self._wake = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="lease keeper")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        leases = list(self._leases.values())
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await asyncio.gather(*(lease.revoke() for lease in leases), return_exceptions=True)
        for lease in leases:
            lease._end()

    async def grant(self, ttl: int) -> Lease:
        """Create a lease of ``ttl`` seconds and keep the lease alive from now on.

        Raises:
            Unavailable and further errors of :meth:`Etcd.grant_lease`.
        """
        sent = asyncio.get_running_loop().time()
        lease = Lease(self, await self._etcd.grant_lease(ttl), ttl, sent)
        self._leases[lease.id] = lease
        self._wake.set()
        return lease

    def _drop(self, lease: Lease) -> None:
        self._leases.pop(lease.id, None)
        self._wake.set()

    async def _run(self) -> None:
        await repeat(self._keep, self._failed, longest=_LONGEST_BACKOFF)

    def _failed(self, error: Exception) -> None:
        if isinstance(error, StoreError):
            log.info("keepalive stream lost", extra={"reason": str(error)})
        else:
            log.error("keepalive failed", exc_info=error)

    async def _keep(self) -> None:
        """Keep the leases alive while any exist and the stream works."""
        while not self._leases:
            self._wake.clear()
            await self._wake.wait()
        stream = await self._etcd.keepalive()
        for lease in self._leases.values():
            lease._reopened()
        reader = asyncio.create_task(self._receive(stream), name="lease keeper's reader")
        reader.add_done_callback(lambda _: self._wake.set())
        try:
            while self._leases and not reader.done():
                self._wake.clear()
                next_look = await self._send_due(stream)
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(next_look):
                        await self._wake.wait()
            if reader.done():
                reader.result()
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            stream.close()

    async def _send_due(self, stream: KeepaliveStream) -> float:
        """Send the keepalives that are due; return the time of the next.

        Raises:
            Unavailable: a keepalive has been unanswered for too long.
        """
        loop = asyncio.get_running_loop()
        for lease in list(self._leases.values()):
            now = loop.time()
            if lease._overdue <= now:
                raise Unavailable(f"no answer to the keepalive of lease {lease.id:x} for {lease.ttl / 2:.1f} s")
            if lease._due <= now:
                lease._sending(now)
                await stream.send(lease.id)
        return min((min(lease._due, lease._overdue) for lease in self._leases.values()), default=loop.time())

    async def _receive(self, stream: KeepaliveStream) -> None:
        while True:
            lease_id, ttl = await stream.receive()
            if lease := self._leases.get(lease_id):
                lease._answered(ttl)
