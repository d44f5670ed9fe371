"""Certificate issuer of one term of office: observe, decide on the next step of each host, write."""

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
from devopsellence.controller.reconcile.observe import DisconnectedError, KeyReader, SnapshotSource
from devopsellence.controller.reconcile.workers import ReconcileWorkers
from devopsellence.store.codec import decode
from devopsellence.store.errors import MalformedRecord, StoreError
from devopsellence.store.etcd import KeyListing
from devopsellence.store.keys import EnvironmentRef
from devopsellence.store.record import message_of, revision_of

#: Largest number of concurrent orders at one authority.
ORDERS_AT_ONCE: Final = 4
# Timers use the monotonic clock, certificates the wall clock: machines are suspended, clocks are set.
_LOOK_AGAIN_SECONDS: Final = 3600.0
_log = structlog.get_logger()
_Host = tuple[EnvironmentRef, str]


class KeyLister(KeyReader, Protocol):
    """Reads and lists keys in etcd: store.etcd.Etcd."""

    async def list(self, prefix: str, *, keys_only: bool = False) -> KeyListing: ...


class Issuer:
    """Issuer of the certificates of all environments."""

    def __init__(
        self,
        etcd: KeyLister,
        caches: SnapshotSource,
        writer: CertificateWriter,
        make_authority: Callable[[], CertificateAuthority],
        clock: Callable[[], Now],
        pace: IssuancePace,
    ) -> None:
        """``make_authority`` is called once, on another thread, when the first order begins."""
        self._etcd = etcd
        self._caches = caches
        self._writer = writer
        self._make_authority = make_authority
        self._authority: CertificateAuthority | None = None
        self._authority_lock = asyncio.Lock()
        self._clock = clock
        self._pace = pace
        self._workers = ReconcileWorkers(self.round)
        self._attempts: dict[_Host, tuple[OrderAttempt, asyncio.Task[None]]] = {}
        # Request ids of ended attempts by host: the caches may still show them as running.
        self._ended: dict[_Host, str] = {}
        # Key request of each host with the monotonic second at which this leader first saw it.
        self._asked: dict[_Host, tuple[str, float]] = {}
        self._room: dict[str, asyncio.Semaphore] = {}

    def add(self, ref: EnvironmentRef, *, delay: float = 0.0) -> None:
        """Queue ``ref`` for a round in ``delay`` seconds at the latest."""
        self._workers.add(ref, delay=delay)

    def unpark(self) -> None:
        """Queue the parked environments: the caches are connected again."""
        self._workers.unpark()

    async def run(self, first: Iterable[EnvironmentRef]) -> None:
        """Work until cancelled, starting with ``first``.

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
        """Run one round for ``ref``; return the seconds until the next round if nothing changes (None: no further).

        Raises:
            DisconnectedError: the caches are not connected.
            Outdated: a key was written in the meantime.
            StoreError: etcd could not be read or written.
        """
        if problem := self._caches.problem:
            raise DisconnectedError(problem)
        snapshot = self._caches.observe(ref)
        all_demands = demands(snapshot) if concerned(snapshot) else CertificateDemands({}, frozenset())
        if all_demands is None:
            return None
        self._forget(ref, all_demands)
        waits = [await self._host(snapshot, all_demands, demand) for demand in all_demands.hosts.values()]
        return min((wait for wait in waits if wait is not None), default=None)

    def _forget(self, ref: EnvironmentRef, all_demands: CertificateDemands) -> None:
        """Drop the state of removed hosts and cancel their attempts."""
        for known in (self._ended, self._asked):
            for gone in [host for host in known if host[0] == ref and host[1] not in all_demands.hosts]:
                del known[gone]
        for key, (_, task) in self._attempts.items():
            if key[0] == ref and key[1] not in all_demands.hosts:
                task.cancel()

    async def _host(
        self, snapshot: EnvironmentSnapshot, all_demands: CertificateDemands, demand: CertificateDemand
    ) -> float | None:
        key = (snapshot.ref, demand.host)
        record = snapshot.certificates.get(demand.host)
        if record is not None and record.message is None:
            # Unreadable: the certificate may be complete.
            return None
        certificate = message_of(record)
        if certificate is None:
            certificate = edits.blank(snapshot.ref, demand.host)
        if key in self._attempts:
            attempt, task = self._attempts[key]
            if next_step.is_under_way(demand, certificate, attempt.request.id):
                attempt.update_servers(demand.servers)
            else:
                # The end of the task queues the next round.
                task.cancel()
            return None
        now = self._clock()
        step = next_step.decide(
            demand, certificate, now, self._since(key, certificate, now), all_demands.recipients, self._pace
        )
        await self._execute(key, step, demand, certificate, revision_of(record), all_demands)
        return min(step.recheck_after, _LOOK_AGAIN_SECONDS) if step.recheck_after is not None else None

    def _since(self, key: _Host, certificate: pb.Certificate, now: Now) -> float:
        request_id = certificate.issuance.key_request.id
        known, since = self._asked.get(key, ("", 0.0))
        if known != request_id:
            since = now.mono
            self._asked[key] = (request_id, since)
        return since

    async def _execute(
        self,
        key: _Host,
        step: CertificateStep,
        demand: CertificateDemand,
        certificate: pb.Certificate,
        revision: int,
        all_demands: CertificateDemands,
    ) -> None:
        ref, host = key
        now = self._clock()
        if step.kind is CertificateStepKind.WAIT:
            return
        if step.kind is CertificateStepKind.ATTEMPT:
            if step.request is not None and demand.account is not None:
                attempt = OrderAttempt(ref, host, demand.account, step.request, self._writer, self._clock, self._pace)
                attempt.update_servers(demand.servers)
                self._begin(attempt)
            return
        _log.info("certificate", environment=str(ref), host=host, step=step.kind.value, reason=step.reason)
        if step.kind is CertificateStepKind.ASK:
            readers = all_demands.recipients | await self._operators()
            asked = edits.asked(certificate, secrets.token_hex(16), step.node, readers, step.reason, now.utc)
            await self._writer.replace(ref, host, revision, asked)
        elif step.kind is CertificateStepKind.FAIL and step.failure is not None:
            changed, events = failing(certificate, step.failure, now, self._pace)
            await self._writer.replace(ref, host, revision, changed, *events)
        elif step.kind is CertificateStepKind.DELETE:
            if revision:
                await self._writer.replace(ref, host, revision, None)
        else:
            await self._writer.replace(ref, host, revision, step.certificate)

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
            await attempt.run(self._known_authority, room)
        except Superseded as error:
            _log.info("certificate no longer wanted", host=attempt.host, reason=str(error))
        except StoreError as error:
            # Another controller leads; the term ends at the next write of the reconciler or the issuer.
            _log.info("certificate left to the next leader", host=attempt.host, reason=str(error))
        self._ended[attempt.ref, attempt.host] = attempt.request.id

    async def _known_authority(self) -> CertificateAuthority:
        async with self._authority_lock:
            if self._authority is None:
                self._authority = await in_thread(self._make_authority)
            return self._authority

    def _end(self, key: _Host) -> None:
        self._attempts.pop(key, None)
        self._workers.add(key[0])

    async def _operators(self) -> frozenset[str]:
        """Return the public keys of all operators; an unreadable operator counts as without a key."""
        listing = await self._etcd.list(self._caches.keys.operators_prefix)
        return frozenset(key for item in listing.items if (key := _operator_key(item.key, item.value)))


def _operator_key(key: str, value: bytes) -> str:
    try:
        recipient = decode(pb.Operator, key, value).age_recipient
    except MalformedRecord:
        return ""
    return recipient if is_recipient(recipient) else ""
