"""Who leads, and the fence around what the leader writes.

A candidate is a key bound to its holder's lease; the one created first leads (etcd's own ``concurrency.Election`` works
so). A lease does not fence by itself: a leader that was paused wakes up believing in a lease that is long gone.
Therefore every write of a leader is a transaction that compares the create revision of its key.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp
from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from devopsellence.api.v1 import stored_pb2
from devopsellence.store.codec import encode
from devopsellence.store.errors import Ambiguous, Compacted, Fenced, LeaseLost, StoreError, Unavailable, WatchLost
from devopsellence.store.etcd import MAX_OPERATIONS, Compare, Delete, Etcd, KeyListing, KeyValue, Put, TxnResult
from devopsellence.store.lease import Lease, LeaseKeeper
from devopsellence.store.retry import repeat

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Who leads next after a leader has vanished does so once its lease has run out, which etcd looks after every 500 ms:
#: 2.7 s to 4.5 s later, as keepalives are sent every third of it. A leader goes on through 2.7 s without an answer.
LEASE_SECONDS: Final = 4
_LONGEST_BACKOFF: Final = 2.0
_REVOKE_SECONDS: Final = 2.0


async def _at_once() -> None:
    pass


@dataclass(frozen=True)
class Leadership:
    """One term in office: the leader's key, the revision that fences its writes, and the lease that it stands on."""

    key: str
    create_revision: int
    lease: Lease
    _etcd: Etcd = field(repr=False)

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Put | Delete]) -> TxnResult:
        """A transaction that is refused once somebody else may lead. As :meth:`Etcd.txn` otherwise.

        Raises:
            Fenced: the term is over; nothing was written.
            Ambiguous: no answer; read back. What is found is whole: the fence held when it was written.
            ValueError: :data:`MAX_OPERATIONS` compares or more operations than that: the fence is a compare itself.
        """
        if self.lease.lost.is_set():
            raise Fenced(f"the lease of {self.key} has ended: this controller no longer leads")
        fence = Compare.created_at(self.key, self.create_revision)
        result, leader = await self._etcd.txn_else_read([fence, *compares], operations, self.key)
        if not result.succeeded and (leader is None or leader.create_revision != self.create_revision):
            raise Fenced(f"{self.key} is gone: this controller no longer leads")
        return result


class Election:
    """Campaigns under ``identity``, which people see (such as ``"<hostname>/<pid>"``).

    ``ttl`` seconds after a leader has vanished at the latest, another one leads.
    """

    def __init__(self, etcd: Etcd, keeper: LeaseKeeper, identity: str, *, ttl: int = LEASE_SECONDS) -> None:
        self._etcd = etcd
        self._keeper = keeper
        self._identity = identity
        self._ttl = ttl

    async def run(
        self, lead: Callable[[Leadership], Awaitable[None]], ready: Callable[[], Awaitable[None]] = _at_once
    ) -> None:
        """Campaign until cancelled, and run ``lead`` whenever elected. ``ready`` is awaited before every candidacy.

        ``lead`` is cancelled when the lease is lost or the key is gone, and awaited before the next campaign. It ends
        the term by returning or raising. On cancellation the lease is revoked, so that another one leads at once.
        """

        async def attempt() -> None:
            await ready()
            await self._term(lead)

        await repeat(attempt, self._failed, longest=_LONGEST_BACKOFF)

    def _failed(self, error: Exception) -> None:
        if isinstance(error, StoreError):
            log.info("campaign or term ended", extra={"reason": str(error)})
        else:
            log.error("the leader failed", exc_info=error)

    async def _term(self, lead: Callable[[Leadership], Awaitable[None]]) -> None:
        """Stand, wait, lead.

        Raises:
            LeaseLost: the term ended, for whatever reason; and what else went wrong.
        """
        lease = await self._keeper.grant(self._ttl)
        try:
            leadership = await _while_held(lease, self._campaign(lease))
            await _while_held(lease, _call(lead, leadership), self._until_gone(leadership))
            raise LeaseLost(f"{leadership.key}: this controller no longer leads")
        finally:
            # Unanswered, it runs out by itself.
            with suppress(StoreError, TimeoutError):
                async with asyncio.timeout(_REVOKE_SECONDS):
                    await lease.revoke()

    async def _campaign(self, lease: Lease) -> Leadership:
        """Put up a candidate and return when it is the first in line."""
        key = self._etcd.keys.candidate(lease.id)
        since = Timestamp()
        since.GetCurrentTime()
        value = encode(stored_pb2.Candidate(identity=self._identity, since=since))
        with suppress(Ambiguous):  # found out by reading back; should it come later still, it ends with the lease
            await self._etcd.txn([Compare.absent(key)], [Put(key, value, lease.id)])
        mine = await self._etcd.get(key)
        if mine is None or mine.lease != lease.id:
            raise LeaseLost(f"{key} was not written")
        await _insist(lambda: self._until_first(mine))
        return Leadership(key, mine.create_revision, lease, self._etcd)

    async def _until_first(self, mine: KeyValue) -> None:
        prefix = self._etcd.keys.election_prefix
        while True:
            listing = await self._etcd.list(prefix)
            candidates = self._candidates(listing)
            if mine.create_revision not in candidates:
                raise LeaseLost(f"{mine.key} is gone")
            if min(candidates) == mine.create_revision:
                return
            await self._until_deleted(prefix, listing.revision)

    def _candidates(self, listing: KeyListing) -> dict[int, str]:
        """Create revision to key. A key that is not bound to the lease it is named after is nobody's, and would lead
        for ever."""
        keys = self._etcd.keys
        return {kv.create_revision: kv.key for kv in listing.items if kv.lease and kv.key == keys.candidate(kv.lease)}

    async def _until_gone(self, leadership: Leadership) -> None:
        """Return when the leader's key is no longer there; survives lost watches."""

        async def watch() -> None:
            while True:
                listing = await self._etcd.list(leadership.key)
                if leadership.create_revision not in self._candidates(listing):
                    return
                await self._until_deleted(leadership.key, listing.revision)

        await _insist(watch)

    async def _until_deleted(self, prefix: str, revision: int) -> None:
        """Return when something under ``prefix`` is deleted after ``revision``."""
        async with aclosing(self._etcd.watch(prefix, start_revision=revision + 1)) as batches:
            async for batch in batches:
                if any(event.kv is None for event in batch.events):
                    return


def batches(operations: Sequence[Put | Delete]) -> Iterator[Sequence[Put | Delete]]:
    """``operations`` in runs of at most :data:`MAX_OPERATIONS`, for one transaction each."""
    for start in range(0, len(operations), MAX_OPERATIONS):
        yield operations[start : start + MAX_OPERATIONS]


async def _call(lead: Callable[[Leadership], Awaitable[None]], leadership: Leadership) -> None:
    await lead(leadership)


async def _insist(step: Callable[[], Awaitable[None]]) -> None:
    """Run ``step`` until it gets through; the lease's end is what bounds it."""

    async def attempt() -> None:  # tenacity awaits only what it knows to be a coroutine function
        await step()

    await AsyncRetrying(
        retry=retry_if_exception_type((WatchLost, Compacted, Unavailable)),
        wait=wait_random_exponential(multiplier=0.1, max=_LONGEST_BACKOFF),
    )(attempt)


async def _while_held(lease: Lease, work: Coroutine[Any, Any, T], *guards: Coroutine[Any, Any, None]) -> T:
    """The result of ``work``, which is cancelled and awaited if the lease is lost or a guard ends first.

    Raises:
        LeaseLost: that is what happened.
    """
    task = asyncio.ensure_future(work)
    others = [asyncio.ensure_future(each) for each in (lease.lost.wait(), *guards)]
    try:
        await asyncio.wait([task, *others], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise LeaseLost(f"lease {lease.id:x} or what was bound to it is gone")
    finally:
        for each in (task, *others):
            each.cancel()
        await asyncio.gather(task, *others, return_exceptions=True)
