"""The controller: warm caches, an election, workers and certificate issuer while it leads; a gateway."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from devopsellence.client_certificate import certificate_end
from devopsellence.clock import now
from devopsellence.controller.access.advertise import announced_address
from devopsellence.controller.access.registry import GatewayRegistry
from devopsellence.controller.cache.store_cache import StoreCache
from devopsellence.controller.certificates.failure import IssuancePace
from devopsellence.controller.certificates.issuer import Issuer
from devopsellence.controller.certificates.order import CertificateAuthority
from devopsellence.controller.certificates.writer import CertificateWriter
from devopsellence.controller.gateway.server import Gateway, GatewayOptions
from devopsellence.controller.reconcile.observe import SnapshotReader
from devopsellence.controller.reconcile.reconciler import EnvironmentReconciler
from devopsellence.controller.reconcile.workers import ReconcileWorkers, run_all
from devopsellence.store.election import Election, Leadership
from devopsellence.store.etcd import Etcd
from devopsellence.store.events import EventWriter
from devopsellence.store.fenced import FencedWriter
from devopsellence.store.keys import EnvironmentRef
from devopsellence.store.lease import LeaseKeeper
from devopsellence.store.settings import Settings

if TYPE_CHECKING:
    from devopsellence.controller.access.own_certificate import OwnCertificate

# Changes are gathered for several times as long as one pass over the nodes takes, so that a thousand nodes reporting at
# once cause a few rounds and not a thousand: the cost of a report does not grow with the number of nodes, and the
# gateway in this program is not kept waiting.
GATHER_SECONDS_PER_NODE: Final = 0.0005
GATHER_SECONDS_AT_MOST: Final = 1.0
# A leader without connected caches plans nothing and keeps other controllers from leading. Watches that break because a
# member of etcd fails are back long before.
PATIENCE_SECONDS: Final = 10.0
_SYNC_COMPLAINT_SECONDS: Final = 5.0
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class CertificateOptions:
    """Options for ordering certificates. ``acme_ca_cert``: PEM file of a CA for ACME servers, besides public CAs."""

    acme_ca_cert: Path | None = None
    pace: IssuancePace = field(default_factory=IssuancePace)

    def authority(self) -> CertificateAuthority:
        """Return the ACME client. Its import takes time and memory, so only when needed."""
        from devopsellence.controller.certificates.acme import AcmeClient

        return AcmeClient(self.acme_ca_cert)


async def run(
    settings: Settings,
    identity: str,
    stop: asyncio.Event,
    certificates: CertificateOptions,
    gateway: GatewayOptions | None = None,
    own: OwnCertificate | None = None,
) -> None:
    """Lead or stand by until ``stop`` is set, then give up the leadership and return; meanwhile serve ``gateway``.

    ``own``: the controller's certificate, which is in ``settings``, if it is renewed here.

    Raises:
        ListenProblem: the gateway cannot be served.
    """
    async with Etcd(settings, joins_lists=True) as etcd, LeaseKeeper(etcd) as keeper:
        # First, because a wrong option ends the program.
        server = Gateway(gateway, settings, etcd) if gateway is not None else None
        expires = partial(certificate_end, settings.ca_cert, settings.cert, settings.key)
        announced = partial(_announced, server, gateway, settings)
        election = Election(etcd, keeper, identity, expires=expires, gateway=announced)
        async with asyncio.TaskGroup() as tasks:
            serving = [tasks.create_task(part.run()) for part in (server, own) if part is not None]
            await serve(Controller(etcd, certificates=certificates), election, stop)
            for task in serving:
                task.cancel()


def _announced(server: Gateway | None, options: GatewayOptions | None, settings: Settings) -> str:
    """Return the address of the gateway for the election; "" without one. May block."""
    if server is None or options is None:
        return ""
    address = announced_address(server.address, options.advertise, settings.endpoints)
    if not address:
        _log.warning("agents do not learn of this gateway", fix="set --gateway-advertise", listen=server.address)
    return address


async def serve(controller: Controller, election: Election, stop: asyncio.Event) -> None:
    """Lead or stand by as :func:`run` does, with an existing controller and election."""
    async with asyncio.TaskGroup() as tasks:
        caches = tasks.create_task(controller.caches.run())
        campaign = tasks.create_task(controller.campaign(election))
        stopping = tasks.create_task(stop.wait())
        await asyncio.wait({caches, campaign, stopping}, return_when=asyncio.FIRST_COMPLETED)
        _log.info("stopping")
        # First the campaign: it revokes the lease, so that another controller takes over while this one stops.
        campaign.cancel()
        await asyncio.wait({campaign})
        caches.cancel()
        stopping.cancel()


class Controller:
    """Controller that keeps its caches warm all the time, and reconciles while it leads."""

    def __init__(
        self,
        etcd: Etcd,
        *,
        patience: float = PATIENCE_SECONDS,
        certificates: CertificateOptions = CertificateOptions(),
    ) -> None:
        """``patience``: seconds of disconnected caches after which a leader gives up its term."""
        self._etcd = etcd
        self._patience = patience
        self._certificates = certificates
        self.caches = StoreCache(etcd, self._changed, self._connection_changed)
        self._can_read = asyncio.Event()
        # None while not leading. Nothing is queued then: a new leader reconciles everything.
        self._workers: ReconcileWorkers | None = None
        self._issuer: Issuer | None = None
        # Deadline of the current term while the caches are disconnected.
        self._blind: asyncio.Timeout | None = None

    async def campaign(self, election: Election) -> None:
        """Stand by and lead in turn until cancelled. A controller with disconnected caches is no candidate."""
        await election.run(self.lead, self._wait_for_caches)

    async def lead(self, leadership: Leadership) -> None:
        """Reconcile until cancelled, or until the caches have been disconnected for too long.

        Raises:
            Fenced: another controller leads.
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
        writer = FencedWriter(leadership, self.caches.expect, EventWriter(self._etcd))
        reconciler = EnvironmentReconciler(SnapshotReader(self._etcd, self.caches), writer, now)
        self._workers = ReconcileWorkers(reconciler.reconcile)
        certificates = CertificateWriter(self._etcd, self.caches.keys, writer, now)
        options = self._certificates
        self._issuer = Issuer(self._etcd, self.caches, certificates, options.authority, now, options.pace)
        try:
            refs = self.caches.environments()
            _log.info("reconciling", environments=len(refs))
            gateways = GatewayRegistry(self._etcd, writer, now)
            await run_all(self._workers.run(refs), self._issuer.run(refs), gateways.run())
        finally:
            self._workers = self._issuer = None
            _log.info("not leading")

    def _changed(self, ref: EnvironmentRef, *, urgent: bool) -> None:
        if self._workers is None or self._issuer is None:
            return
        gather = min(GATHER_SECONDS_AT_MOST, GATHER_SECONDS_PER_NODE * self.caches.count_of_nodes(ref))
        self._workers.add(ref, delay=0.0 if urgent else gather)
        # Seldom has anything to do, and looks at all nodes.
        self._issuer.add(ref, delay=0.0 if urgent else 2 * gather)

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
        """Let the term go on while the caches are connected, and for a while after they have been disconnected."""
        if self._blind is None or self._blind.expired():
            return
        loop = asyncio.get_running_loop()
        self._blind.reschedule(None if self._can_read.is_set() else loop.time() + self._patience)

    async def _wait_for_caches(self) -> None:
        """Return when all caches are connected; planning needs all of them."""
        while not self._can_read.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(_SYNC_COMPLAINT_SECONDS):
                    await self._can_read.wait()
            if not self._can_read.is_set():
                _log.warning("waiting for the caches", reason=self.caches.problem)
        _log.info("standing by")
