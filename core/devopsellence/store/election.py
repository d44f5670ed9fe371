"""Leader election, and fenced writes of the leader.

A candidate is a key bound to the lease of a controller; the candidate created first leads (as in etcd's own
``concurrency.Election``). A lease alone does not fence: a leader paused for long still believes in an expired lease.
Therefore every write of a leader is a transaction that compares the create revision of the leader's key.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from devopsellence.api.v1 import stored_pb2
from devopsellence.store.codec import encode
from devopsellence.store.errors import Ambiguous, Compacted, Fenced, LeaseLost, StoreError, Unavailable, WatchLost
from devopsellence.store.etcd import MAX_OPERATIONS, Compare, Delete, Etcd, KeyListing, KeyValue, Put, TxnResult
from devopsellence.store.lease import Lease, LeaseKeeper
from devopsellence.store.retry import repeat
from devopsellence.store.size import bounded

log = logging.getLogger(__name__)

T = TypeVar("T")

#: TTL of the leader's lease. The next leader takes over once the lease expires, 2.7 s to 4.5 s after the leader
#: vanished, because keepalives are sent every third of the TTL and etcd checks for expiry every 500 ms. A leader
#: continues through 2.7 s without an answer.
LEASE_SECONDS: Final = 4
#: Interval at which a candidate's record follows its certificate and its address, which may change meanwhile.
RECHECK_SECONDS: Final = 600.0
_LONGEST_BACKOFF: Final = 2.0
_REVOKE_SECONDS: Final = 2.0


async def _at_once() -> None:
    pass


def _no_certificate() -> float:
    return 0.0


def _no_gateway() -> str:
    return ""


@dataclass(frozen=True)
class Leadership:
    """Term of a leader: key, create revision that fences writes, and lease."""

    key: str
    create_revision: int
    lease: Lease
    _etcd: Etcd = field(repr=False)

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Put | Delete]) -> TxnResult:
        """Run a fenced transaction, rejected once another controller may lead. As :meth:`Etcd.txn` otherwise.

        Raises:
            Fenced: the term is over; nothing was written.
            Ambiguous: no answer; read back. Data read back is complete: the fence held at the time of the write.
            ValueError: :data:`MAX_OPERATIONS` compares, or more operations: the fence is a compare as well.
        """
        if self.lease.lost.is_set():
            raise Fenced(f"the lease of {self.key} has ended: this controller no longer leads")
        fence = Compare.created_at(self.key, self.create_revision)
        result, leader = await self._etcd.txn_else_read([fence, *compares], operations, self.key)
        if not result.succeeded and (leader is None or leader.create_revision != self.create_revision):
            raise Fenced(f"{self.key} is gone: this controller no longer leads")
        return result


class Election:
    """Candidate for leadership. ``identity`` is shown to people (such as ``"<hostname>/<pid>"``).

    Another candidate leads at most ``ttl`` seconds after a leader vanished. ``expires`` returns the end of the client
    certificate in seconds since the epoch, 0 for none; ``gateway`` the address of this controller's gateway, "" for
    none. Both block; they are shown, and read again every ``recheck`` seconds.
    """

    def __init__(
        self,
        etcd: Etcd,
        keeper: LeaseKeeper,
        identity: str,
        *,
        ttl: int = LEASE_SECONDS,
        expires: Callable[[], float] = _no_certificate,
        gateway: Callable[[], str] = _no_gateway,
        recheck: float = RECHECK_SECONDS,
    ) -> None:
        self._etcd = etcd
        self._keeper = keeper
        self._identity = identity
        self._ttl = ttl
        self._expires = expires
        self._gateway = gateway
        self._recheck = recheck

    async def run(
        self, lead: Callable[[Leadership], Awaitable[None]], ready: Callable[[], Awaitable[None]] = _at_once
    ) -> None:
        """Campaign until cancelled, and run ``lead`` whenever elected. ``ready`` is awaited before every candidacy.

        ``lead`` is cancelled when the lease is lost or the key is deleted, and awaited before the next campaign. The
        term ends as well when ``lead`` returns or raises. On cancellation the lease is revoked, so that another
        candidate leads at once.
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
        """Put up a candidate, wait, lead.

        Raises:
            LeaseLost: the term ended, for whatever reason. Other errors are passed on.
        """
        lease = await self._keeper.grant(self._ttl)
        try:
            candidate = stored_pb2.Candidate(identity=self._identity)
            candidate.since.GetCurrentTime()
            leadership = await _while_held(
                lease, self._campaign(lease, candidate), self._keep_described(lease, candidate)
            )
            await _while_held(
                lease,
                _call(lead, leadership),
                self._until_gone(leadership),
                self._keep_described(lease, candidate),
            )
            raise LeaseLost(f"{leadership.key}: this controller no longer leads")
        finally:
            # Without an answer, the lease expires by itself.
            with suppress(StoreError, TimeoutError):
                async with asyncio.timeout(_REVOKE_SECONDS):
                    await lease.revoke()

    async def _keep_described(self, lease: Lease, candidate: stored_pb2.Candidate) -> None:
        """Write the candidate again whenever its certificate was renewed or its address changed; never returns."""
        key = self._etcd.keys.candidate(lease.id)
        while True:
            await asyncio.sleep(self._recheck)
            before = encode(candidate)
            await asyncio.to_thread(self._describe, candidate)
            if encode(candidate) != before:
                with suppress(StoreError):  # the next look repeats it, if need be with the next lease
                    await self._etcd.txn([Compare.exists(key)], [Put(key, encode(bounded(candidate)), lease.id)])

    def _describe(self, candidate: stored_pb2.Candidate) -> None:
        if end := self._expires():
            candidate.certificate_expires_at.FromSeconds(int(end))
        candidate.gateway = self._gateway()

    async def _campaign(self, lease: Lease, candidate: stored_pb2.Candidate) -> Leadership:
        """Put up a candidate and return once elected."""
        key = self._etcd.keys.candidate(lease.id)
        await asyncio.to_thread(self._describe, candidate)
        value = encode(bounded(candidate))
        with suppress(Ambiguous):  # the next read shows the result; a write that arrives even later ends with the lease
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
        """Return the candidates' keys by create revision.

        A key not bound to the lease in its name is ignored: such a key would never expire and lead for ever.
        """
        keys = self._etcd.keys
        return {kv.create_revision: kv.key for kv in listing.items if kv.lease and kv.key == keys.candidate(kv.lease)}

    async def _until_gone(self, leadership: Leadership) -> None:
        """Return when the leader's key is deleted; survives lost watches."""

        async def watch() -> None:
            while True:
                listing = await self._etcd.list(leadership.key)
                if leadership.create_revision not in self._candidates(listing):
                    return
                await self._until_deleted(leadership.key, listing.revision)

        await _insist(watch)

    async def _until_deleted(self, prefix: str, revision: int) -> None:
        """Return when a key under ``prefix`` is deleted, or detached from its lease, after ``revision``."""
        async with aclosing(self._etcd.watch(prefix, start_revision=revision + 1)) as batches:
            async for batch in batches:
                if any(event.kv is None or not event.kv.lease for event in batch.events):
                    return


def batches(operations: Sequence[Put | Delete]) -> Iterator[Sequence[Put | Delete]]:
    """Split ``operations`` into batches of at most :data:`MAX_OPERATIONS`, one transaction per batch."""
    for start in range(0, len(operations), MAX_OPERATIONS):
        yield operations[start : start + MAX_OPERATIONS]


async def _call(lead: Callable[[Leadership], Awaitable[None]], leadership: Leadership) -> None:
    await lead(leadership)


async def _insist(step: Callable[[], Awaitable[None]]) -> None:
    """Run ``step`` until success; the caller stops at the end of the lease."""

    async def attempt() -> None:  # tenacity awaits only coroutine functions
        await step()

    await AsyncRetrying(
        retry=retry_if_exception_type((WatchLost, Compacted, Unavailable)),
        wait=wait_random_exponential(multiplier=0.1, max=_LONGEST_BACKOFF),
    )(attempt)


async def _while_held(lease: Lease, work: Coroutine[Any, Any, T], *guards: Coroutine[Any, Any, None]) -> T:
    """Return the result of ``work``, cancelled and awaited if the lease is lost or a guard ends first.

    Raises:
        LeaseLost: the lease was lost or a guard ended before ``work``.
    """
    task = asyncio.ensure_future(work)
    guard_tasks = [asyncio.ensure_future(guard) for guard in (lease.lost.wait(), *guards)]
    try:
        await asyncio.wait([task, *guard_tasks], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise LeaseLost(f"lease {lease.id:x} or a key bound to it is gone")
    finally:
        for pending in (task, *guard_tasks):
            pending.cancel()
        await asyncio.gather(task, *guard_tasks, return_exceptions=True)
