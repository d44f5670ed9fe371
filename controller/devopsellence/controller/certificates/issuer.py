"""Sees to it that every host which is to have a certificate has one: observe, decide, write; while this one leads."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable
from typing import Final, Protocol

import structlog

from devopsellence.age import is_recipient
from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.clock import Now
from devopsellence.controller.certificates import next_step
from devopsellence.controller.certificates import record as edits
from devopsellence.controller.certificates.demand import CertificateDemand, CertificateDemands, concerned, demands
from devopsellence.controller.certificates.failure import IssuancePace
from devopsellence.controller.certificates.next_step import CertificateStep, CertificateStepKind
from devopsellence.controller.certificates.order import CertificateAuthority, OrderAttempt, failing
from devopsellence.controller.certificates.threads import in_thread
from devopsellence.controller.certificates.writer import CertificateWriter, Superseded
from devopsellence.controller.model.snapshot import EnvironmentSnapshot
from devopsellence.controller.reconcile.reconciler import DisconnectedError, KeyReader, SnapshotSource
from devopsellence.controller.reconcile.workers import ReconcileWorkers
from devopsellence.store.codec import decode
from devopsellence.store.errors import MalformedRecord, StoreError
from devopsellence.store.etcd import KeyListing
from devopsellence.store.keys import EnvironmentRef
from devopsellence.store.record import message_of, revision_of

#: Orders under way at one authority.
ORDERS_AT_ONCE: Final = 4
# Timers are by the monotonic clock and certificates are not: suspended machines, clocks that are set.
_LOOK_AGAIN_SECONDS: Final = 3600.0
_log = structlog.get_logger()
_Host = tuple[EnvironmentRef, str]


class Store(KeyReader, Protocol):
    """What reads etcd itself: store.etcd.Etcd."""

    async def list(self, prefix: str, *, keys_only: bool = False) -> KeyListing: ...


class Issuer:
    """One term's certificates."""

    def __init__(
        self,
        etcd: Store,
        caches: SnapshotSource,
        records: CertificateWriter,
        make_orders: Callable[[], CertificateAuthority],
        clock: Callable[[], Now],
        pace: IssuancePace,
    ) -> None:
        """``make_orders`` is called on another thread, once, when the first order is to be begun."""
        self._etcd = etcd
        self._caches = caches
        self._records = records
        self._make_orders = make_orders
        self._orders: CertificateAuthority | None = None
        self._making_orders = asyncio.Lock()
        self._clock = clock
        self._pace = pace
        self._workers = ReconcileWorkers(self.round)
        self._attempts: dict[_Host, tuple[OrderAttempt, asyncio.Task[None]]] = {}
        # Attempts that have come to an end, by host: what the caches say about them is old.
        self._ended: dict[_Host, str] = {}
        # Since when, by the monotonic clock, this leader has seen a host's key request.
        self._asked: dict[_Host, tuple[str, float]] = {}
        self._room: dict[str, asyncio.Semaphore] = {}

    def add(self, ref: EnvironmentRef, *, delay: float = 0.0) -> None:
        """Have a look at ``ref`` in ``delay`` seconds at the latest."""
        self._workers.add(ref, delay=delay)

    def unpark(self) -> None:
        """The caches are connected again."""
        self._workers.unpark()

    async def run(self, first: Iterable[EnvironmentRef]) -> None:
        """Work until cancelled, beginning with ``first``.

        Raises:
            Fenced: another controller leads.
        """
        try:
            await self._workers.run(first)
        finally:
            running = [task for _, task in self._attempts.values()]
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def round(self, ref: EnvironmentRef) -> float | None:
        """One look at ``ref``; returns after how many seconds to look again if nothing changes (None: never).

        Raises:
            DisconnectedError: the caches are not connected.
            OutdatedError: something has changed meanwhile.
            StoreError: etcd could not be read or written.
        """
        if problem := self._caches.problem:
            raise DisconnectedError(problem)
        snapshot = self._caches.observe(ref)
        found = demands(snapshot) if concerned(snapshot) else CertificateDemands({}, frozenset())
        if found is None:
            return None
        self._forget(ref, found)
        waits = [await self._host(snapshot, found, demand) for demand in found.hosts.values()]
        return min((wait for wait in waits if wait is not None), default=None)

    def _forget(self, ref: EnvironmentRef, found: CertificateDemands) -> None:
        """Drop what is known about hosts that are not there any more."""
        for known in (self._ended, self._asked):
            for gone in [one for one in known if one[0] == ref and one[1] not in found.hosts]:
                del known[gone]
        for key, (_, task) in self._attempts.items():
            if key[0] == ref and key[1] not in found.hosts:
                task.cancel()

    async def _host(
        self, snapshot: EnvironmentSnapshot, found: CertificateDemands, demand: CertificateDemand
    ) -> float | None:
        key = (snapshot.ref, demand.host)
        record = snapshot.certificates.get(demand.host)
        if record is not None and record.message is None:
            # It cannot be read: nothing is known to be lacking.
            return None
        certificate = message_of(record)
        if certificate is None:
            certificate = edits.blank(snapshot.ref, demand.host)
        if key in self._attempts:
            attempt, task = self._attempts[key]
            if next_step.is_under_way(demand, certificate, attempt.request.id):
                attempt.look(demand.servers)
            else:
                # Its end brings the next round.
                task.cancel()
            return None
        now = self._clock()
        step = next_step.decide(
            demand, certificate, now, self._since(key, certificate, now), found.recipients, self._pace
        )
        await self._carry_out(key, step, demand, certificate, revision_of(record), found)
        return min(step.recheck_after, _LOOK_AGAIN_SECONDS) if step.recheck_after is not None else None

    def _since(self, key: _Host, certificate: pb.Certificate, now: Now) -> float:
        request_id = certificate.issuance.key_request.id
        known, since = self._asked.get(key, ("", 0.0))
        if known != request_id:
            since = now.mono
            self._asked[key] = (request_id, since)
        return since

    async def _carry_out(
        self,
        key: _Host,
        step: CertificateStep,
        demand: CertificateDemand,
        certificate: pb.Certificate,
        revision: int,
        found: CertificateDemands,
    ) -> None:
        ref, host = key
        now = self._clock()
        if step.do is CertificateStepKind.WAIT:
            return
        if step.do is CertificateStepKind.ATTEMPT:
            if step.request is not None and demand.account is not None:
                attempt = OrderAttempt(ref, host, demand.account, step.request, self._records, self._clock, self._pace)
                attempt.look(demand.servers)
                self._begin(attempt)
            return
        _log.info("certificate", environment=str(ref), host=host, step=step.do.value, reason=step.reason)
        if step.do is CertificateStepKind.ASK:
            readers = found.recipients | await self._operators()
            asked = edits.asked(certificate, secrets.token_hex(16), step.node, readers, step.reason, now.utc)
            await self._records.replace(ref, host, revision, asked)
        elif step.do is CertificateStepKind.FAIL and step.failure is not None:
            made, events = failing(certificate, step.failure, now, self._pace)
            await self._records.replace(ref, host, revision, made, *events)
        elif step.do is CertificateStepKind.DELETE:
            if revision:
                await self._records.replace(ref, host, revision, None)
        else:
            await self._records.replace(ref, host, revision, step.certificate)

    def _begin(self, attempt: OrderAttempt) -> None:
        key = (attempt.ref, attempt.host)
        if self._ended.get(key) == attempt.request.id:
            return
        room = self._room.setdefault(attempt.account.directory_url, asyncio.Semaphore(ORDERS_AT_ONCE))
        task = asyncio.create_task(self._attempt(attempt, room))
        self._attempts[key] = (attempt, task)
        task.add_done_callback(lambda _: self._end(key))

    async def _attempt(self, attempt: OrderAttempt, room: asyncio.Semaphore) -> None:
        try:
            await attempt.run(self._known_orders, room)
        except Superseded as error:
            _log.info("certificate no longer wanted", host=attempt.host, reason=str(error))
        except StoreError as error:
            # Another controller leads; the term ends with the next look of whoever notices first.
            _log.info("certificate left to the next leader", host=attempt.host, reason=str(error))
        self._ended[attempt.ref, attempt.host] = attempt.request.id

    async def _known_orders(self) -> CertificateAuthority:
        async with self._making_orders:
            if self._orders is None:
                self._orders = await in_thread(self._make_orders)
            return self._orders

    def _end(self, key: _Host) -> None:
        self._attempts.pop(key, None)
        self._workers.add(key[0])

    async def _operators(self) -> frozenset[str]:
        """The public keys of all operators; what cannot be read counts as having none."""
        listing = await self._etcd.list(self._caches.keys.operators_prefix)
        return frozenset(key for item in listing.items if (key := _operator_key(item.key, item.value)))


def _operator_key(key: str, value: bytes) -> str:
    try:
        said = decode(pb.Operator, key, value).age_recipient
    except MalformedRecord:
        return ""
    return said if is_recipient(said) else ""
