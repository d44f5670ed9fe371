"""The controller as a whole: caches that are always warm, and environments that are worked on while it leads."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import structlog

from devopsellence.controller.cache.store_cache import Caches
from devopsellence.controller.certificates.failure import Pace
from devopsellence.controller.certificates.issuer import Issuer
from devopsellence.controller.certificates.order import Orders
from devopsellence.controller.certificates.writer import Records
from devopsellence.controller.model.snapshot import Moment
from devopsellence.controller.reconcile.reconciler import Reconciler
from devopsellence.controller.reconcile.workers import Workers, together
from devopsellence.store.election import Election, Leadership
from devopsellence.store.etcd import Etcd
from devopsellence.store.events import Journal
from devopsellence.store.keys import EnvironmentRef
from devopsellence.store.lease import LeaseKeeper
from devopsellence.store.settings import Settings

# Reports are gathered for as long as it takes to go through the nodes, roughly, so that a thousand nodes that report
# at once are a few rounds and not a thousand: what one report costs does not grow with the nodes.
GATHER_SECONDS_PER_NODE: Final = 0.00025
GATHER_SECONDS_AT_MOST: Final = 0.75
# A leader that cannot see what changes plans nothing, and keeps those who can from it. Watches that break together with
# a member of etcd are back long before.
PATIENCE_SECONDS: Final = 10.0
_SYNC_COMPLAINT_SECONDS: Final = 5.0
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class CertificateOptions:
    """How certificates are ordered. ``acme_ca_cert``: PEM, whom to trust for ACME servers besides those that all do."""

    acme_ca_cert: Path | None = None
    pace: Pace = field(default_factory=Pace)

    def orders(self) -> Orders:
        """The ACME client. Takes its time, and memory: not before it is needed."""
        from devopsellence.controller.certificates.acme import Authorities

        return Authorities(self.acme_ca_cert)


async def run(settings: Settings, identity: str, stop: asyncio.Event, certificates: CertificateOptions) -> None:
    """Lead or stand by until ``stop`` is set; then give up the leadership and return."""
    async with Etcd(settings) as etcd, LeaseKeeper(etcd) as keeper:
        await serve(Controller(etcd, certificates=certificates), Election(etcd, keeper, identity), stop)


async def serve(controller: Controller, election: Election, stop: asyncio.Event) -> None:
    """As :func:`run`, with what is made already."""
    async with asyncio.TaskGroup() as tasks:
        caches = tasks.create_task(controller.caches.run())
        campaign = tasks.create_task(controller.campaign(election))
        stopping = tasks.create_task(stop.wait())
        await asyncio.wait({caches, campaign, stopping}, return_when=asyncio.FIRST_COMPLETED)
        _log.info("stopping")
        # First the campaign: it revokes the lease, and another controller takes over while this one goes.
        campaign.cancel()
        await asyncio.wait({campaign})
        caches.cancel()
        stopping.cancel()


def read_clocks() -> Moment:
    """Both clocks, now."""
    return Moment(datetime.now(UTC), time.monotonic())


class Controller:
    """Keeps the caches warm whether it leads or not; reconciles while it leads."""

    def __init__(
        self,
        etcd: Etcd,
        *,
        patience: float = PATIENCE_SECONDS,
        certificates: CertificateOptions = CertificateOptions(),
    ) -> None:
        """``patience``: a leader whose caches have been disconnected for so many seconds gives up its term."""
        self._etcd = etcd
        self._patience = patience
        self._certificates = certificates
        self.caches = Caches(etcd, self._changed, self._connection_changed)
        self._can_read = asyncio.Event()
        # None: does not lead. Nothing is queued then; a new leader looks at everything.
        self._workers: Workers | None = None
        self._issuer: Issuer | None = None
        # Of the term that is under way.
        self._blind: asyncio.Timeout | None = None

    async def campaign(self, election: Election) -> None:
        """Stand by and lead in turn, until cancelled. Who cannot read is no candidate: another one may be able to."""
        await election.run(self.lead, self._wait_for_caches)

    async def lead(self, leadership: Leadership) -> None:
        """Reconcile until cancelled, or until the caches have been disconnected for too long.

        Raises:
            Fenced: another one leads.
        """
        try:
            async with asyncio.timeout(None) as self._blind:
                self._watch_connection()
                await self._reconcile(leadership)
        except TimeoutError:
            if self._blind is None or not self._blind.expired():
                raise
            _log.warning("giving up the leadership", reason=self.caches.problem)
        finally:
            self._blind = None

    async def _reconcile(self, leadership: Leadership) -> None:
        _log.info("leading", key=leadership.key, revision=leadership.create_revision)
        journal = Journal(self._etcd)
        reconciler = Reconciler(self._etcd, self.caches, leadership, journal, read_clocks)
        self._workers = Workers(reconciler.reconcile)
        records = Records(self._etcd, self.caches, leadership, journal, read_clocks)
        options = self._certificates
        self._issuer = Issuer(self._etcd, self.caches, records, options.orders, read_clocks, options.pace)
        try:
            refs = self.caches.environments()
            _log.info("reconciling", environments=len(refs))
            await together(self._workers.run(refs), self._issuer.run(refs))
        finally:
            self._workers = self._issuer = None
            _log.info("not leading")

    def _changed(self, ref: EnvironmentRef, *, urgent: bool) -> None:
        if self._workers is None or self._issuer is None:
            return
        gather = min(GATHER_SECONDS_AT_MOST, GATHER_SECONDS_PER_NODE * self.caches.count_of_nodes(ref))
        self._workers.add(ref, delay=0.0 if urgent else gather)
        self._issuer.add(ref, delay=0.0 if urgent else gather)

    def _connection_changed(self) -> None:
        if self.caches.problem:
            self._can_read.clear()
        else:
            self._can_read.set()
            if self._workers is not None and self._issuer is not None:
                self._workers.unpark()
                self._issuer.unpark()
        self._watch_connection()

    def _watch_connection(self) -> None:
        """Let the term go on for as long as the caches are connected, and for a while when they are not."""
        if self._blind is None or self._blind.expired():
            return
        loop = asyncio.get_running_loop()
        self._blind.reschedule(None if self._can_read.is_set() else loop.time() + self._patience)

    async def _wait_for_caches(self) -> None:
        """Return when all caches are connected; nothing may be planned before."""
        while not self._can_read.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(_SYNC_COMPLAINT_SECONDS):
                    await self._can_read.wait()
            if not self._can_read.is_set():
                _log.warning("waiting for the caches", reason=self.caches.problem)
        _log.info("standing by")
