"""Workers that reconcile queued environments, and retry after failures."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final

import structlog

from devopsellence.controller.reconcile.observe import DisconnectedError
from devopsellence.controller.reconcile.workqueue import WorkQueue
from devopsellence.store.errors import Fenced, StoreError
from devopsellence.store.fenced import Outdated
from devopsellence.store.keys import EnvironmentRef

WORKERS: Final = 4
# Consecutive failures before the log gets a warning.
FAILURES_BEFORE_WARNING: Final = 5
_log = structlog.get_logger()


async def run_all(*work: Coroutine[Any, Any, None]) -> None:
    """Run all of ``work`` concurrently; the first exception cancels the rest.

    Raises:
        Fenced: raised by one of the coroutines.
    """
    try:
        async with asyncio.TaskGroup() as tasks:
            for coroutine in work:
                tasks.create_task(coroutine)
    except ExceptionGroup as group:
        # Not except*: Python 3.11.2 of Debian 12 wraps exceptions raised inside it in a group again.
        fenced, _ = group.split(Fenced)
        if fenced is None:
            raise
        raise Fenced(str(fenced.exceptions[0])) from group


class ReconcileWorkers:
    """Queue of environments and its workers, for one term of office.

    ``reconcile`` runs one round for an environment and returns the seconds until the next round (None: only after a
    change).
    """

    def __init__(
        self,
        reconcile: Callable[[EnvironmentRef], Awaitable[float | None]],
        *,
        queue: WorkQueue[EnvironmentRef] | None = None,
    ) -> None:
        self._reconcile = reconcile
        self._queue = WorkQueue[EnvironmentRef]() if queue is None else queue
        # Environments that wait until the caches are connected again, without a timer.
        self._parked: set[EnvironmentRef] = set()

    def add(self, ref: EnvironmentRef, *, delay: float = 0.0) -> None:
        """Queue ``ref`` for a round in ``delay`` seconds at the latest."""
        self._queue.add_after(ref, delay)

    def unpark(self) -> None:
        """Queue the parked environments: the caches are connected again."""
        parked, self._parked = self._parked, set()
        for ref in parked:
            self._queue.add(ref)

    async def run(self, first: Iterable[EnvironmentRef], *, workers: int = WORKERS) -> None:
        """Work until cancelled, starting with ``first``.

        Raises:
            Fenced: another controller leads.
        """
        for ref in first:
            self._queue.add(ref)
        try:
            await run_all(*(self._work() for _ in range(workers)))
        finally:
            self._queue.close()

    async def _work(self) -> None:
        while True:
            ref = await self._queue.get()
            try:
                await self.process(ref)
            finally:
                self._queue.done(ref)

    async def process(self, ref: EnvironmentRef) -> None:
        """Run one round for ``ref``, then forget it, retry later, park it until connected, or give up the term.

        Raises:
            Fenced: another controller leads.
        """
        queue = self._queue
        try:
            recheck_after = await self._reconcile(ref)
        except DisconnectedError:
            self._parked.add(ref)
        except Outdated as error:
            # Expected: a recent write has not arrived in the caches yet. A warning only if it goes on.
            delay = queue.add_failed(ref)
            level = _log.warning if queue.failures(ref) >= FAILURES_BEFORE_WARNING else _log.debug
            level("planned again", environment=str(ref), reason=str(error), retry_in=round(delay, 3))
        except Fenced:
            raise
        except StoreError as error:
            # A write without an answer may have happened. A retry is safe: every write compares the replaced revision.
            delay = queue.add_failed(ref)
            _log.warning("not reconciled", environment=str(ref), reason=str(error), retry_in=round(delay, 3))
        except Exception:  # noqa: BLE001 - a bug: it stops this environment alone, and may not apply to its next state
            delay = queue.add_failed(ref)
            _log.exception("not reconciled", environment=str(ref), retry_in=round(delay, 3))
        else:
            queue.forget(ref)
            if recheck_after is not None:
                queue.add_after(ref, recheck_after)
