"""Reconciler: observe, plan and write one environment at a time, fenced by the leadership."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import structlog

from devopsellence.clock import Now
from devopsellence.controller.model.actions import EnvironmentPlan, WriteKind
from devopsellence.controller.model.reachability import UnreachableSince
from devopsellence.controller.model.snapshot import ProgressStopwatch
from devopsellence.controller.plan import plan
from devopsellence.controller.reconcile.observe import SnapshotReader
from devopsellence.controller.reconcile.transactions import transactions
from devopsellence.store.fenced import FencedWriter, log_events
from devopsellence.store.keys import EnvironmentRef

_log = structlog.get_logger()


class EnvironmentReconciler:
    """Reconciler of the assignments and the rollout of environments."""

    def __init__(self, reader: SnapshotReader, writer: FencedWriter, clock: Callable[[], Now]) -> None:
        self._reader = reader
        self._writer = writer
        self._clock = clock
        # Stopwatches of the rollouts with a running progress deadline.
        self._stopwatches: dict[EnvironmentRef, ProgressStopwatch] = {}
        self._unreachable_since = UnreachableSince()

    async def reconcile(self, ref: EnvironmentRef) -> float | None:
        """Run one round for ``ref``; return the seconds until the next round if nothing changes (None: no further).

        Raises:
            DisconnectedError: the caches are not connected.
            Outdated: a key was written in the meantime.
            StoreError: etcd could not be read or written.
        """
        snapshot = await self._reader.read(ref)
        now = self._clock()
        unreachable_since = self._unreachable_since.note(snapshot, now)
        stopwatch = self._stopwatches.get(ref)
        snapshot = replace(snapshot, stopwatch=stopwatch, unreachable_since=unreachable_since)
        planned = plan(snapshot, now, self._reader.keys)
        await self._write(ref, planned, now)
        if planned.stopwatch is None:
            self._stopwatches.pop(ref, None)
        else:
            self._stopwatches[ref] = planned.stopwatch
        return planned.recheck_after

    async def _write(self, ref: EnvironmentRef, planned: EnvironmentPlan, now: Now) -> None:
        if not planned.actions:
            return
        event_puts = await self._writer.event_puts(ref, planned.events, now)
        for number, transaction in enumerate(transactions(planned, event_puts)):
            await self._writer.commit(
                transaction.compares, transaction.operations, transaction.written, "a key was written meanwhile"
            )
            if number == 0:
                log_events(ref, planned.events)
        _log.debug("plan carried out", environment=str(ref), actions=len(planned.actions))
        if parts := sum(action.kind in (WriteKind.WRITE_PART, WriteKind.DELETE_PART) for action in planned.actions):
            _log.info("ingress parts written", environment=str(ref), parts=parts)
