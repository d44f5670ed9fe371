"""The controller as a whole: caches that are always warm, and environments that are worked on while it leads."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Final

import structlog

from devopsellence.controller.caches import Caches
from devopsellence.controller.reconcile import Reconciler
from devopsellence.controller.workers import Workers
from devopsellence.controller.world import Moment
from devopsellence.store.election import Election, Leadership
from devopsellence.store.etcd import Etcd
from devopsellence.store.journal import Journal
from devopsellence.store.keys import EnvironmentRef
from devopsellence.store.lease import LeaseKeeper
from devopsellence.store.settings import Settings

# Reports are gathered for as long as it takes to go through the nodes, roughly, so that a thousand nodes that report
# at once are a few rounds and not a thousand: what one report costs does not grow with the nodes.
GATHER_SECONDS_PER_NODE: Final = 0.00025
GATHER_SECONDS_AT_MOST: Final = 0.75
_SYNC_COMPLAINT_SECONDS: Final = 5.0
_log = structlog.get_logger()


async def run(settings: Settings, identity: str, stop: asyncio.Event) -> None:
    """Lead or stand by until ``stop`` is set; then give up the leadership and return."""
    async with Etcd(settings) as etcd, LeaseKeeper(etcd) as keeper:
        controller = Controller(etcd)
        election = Election(etcd, keeper, identity)
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

    def __init__(self, etcd: Etcd) -> None:
        self._etcd = etcd
        self.caches = Caches(etcd, self._changed, self._connected)
        # None: does not lead. Nothing is queued then; a new leader looks at everything.
        self._workers: Workers | None = None

    async def campaign(self, election: Election) -> None:
        """Stand by and lead in turn, until cancelled. Who cannot read is no candidate: another one may be able to."""
        await self._wait_for_caches()
        _log.info("standing by")
        await election.run(self.lead)

    async def lead(self, leadership: Leadership) -> None:
        """Reconcile until cancelled.

        Raises:
            Fenced: another one leads.
        """
        _log.info("leading", key=leadership.key, revision=leadership.create_revision)
        reconciler = Reconciler(self._etcd, self.caches, leadership, Journal(self._etcd), read_clocks)
        self._workers = Workers(reconciler.reconcile)
        try:
            refs = self.caches.environments()
            _log.info("reconciling", environments=len(refs))
            await self._workers.run(refs)
        finally:
            self._workers = None
            _log.info("not leading")

    def _changed(self, ref: EnvironmentRef, *, urgent: bool) -> None:
        if self._workers is None:
            return
        gather = min(GATHER_SECONDS_AT_MOST, GATHER_SECONDS_PER_NODE * self.caches.count_of_nodes(ref))
        self._workers.add(ref, delay=0.0 if urgent else gather)

    def _connected(self) -> None:
        if self._workers is not None:
            self._workers.unpark()

    async def _wait_for_caches(self) -> None:
        """Return when each cache holds a first list; nothing may be planned before."""
        synced = asyncio.ensure_future(self.caches.synced())
        try:
            while not synced.done():
                await asyncio.wait({synced}, timeout=_SYNC_COMPLAINT_SECONDS)
                if not synced.done():
                    _log.warning("waiting for the caches", reason=self.caches.problem)
            synced.result()
        finally:
            synced.cancel()
