"""Works on a queue of environments, and decides what becomes of each after a round."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final

import structlog

from devopsellence.controller.reconcile.reconciler import DisconnectedError, OutdatedError
from devopsellence.controller.reconcile.workqueue import WorkQueue
from devopsellence.store.errors import Fenced, StoreError
from devopsellence.store.keys import EnvironmentRef

WORKERS: Final = 4
# A failure that goes on is worth a line when it begins to hurt.
FAILURES_BEFORE_WARNING: Final = 5
_log = structlog.get_logger()


async def together(*work: Coroutine[Any, Any, None]) -> None:
    """Run all of ``work`` at once; the first that raises ends the others.

    Raises:
        Fenced: one of them was.
    """
    try:
        async with asyncio.TaskGroup() as tasks:
            for one in work:
                tasks.create_task(one)
    except ExceptionGroup as group:
        # Not except*: what is raised inside that is wrapped in a group again by Python 3.11.2, Debian 12's.
        fenced, _ = group.split(Fenced)
        if fenced is None:
            raise
        raise Fenced(str(fenced.exceptions[0])) from group


class Workers:
    """One term's queue and those who work on it.

    ``reconcile`` does one round for an environment and returns after how many seconds to do another although nothing
    has changed (None: never).
    """

    def __init__(
        self,
        reconcile: Callable[[EnvironmentRef], Awaitable[float | None]],
        *,
        queue: WorkQueue[EnvironmentRef] | None = None,
    ) -> None:
        self._reconcile = reconcile
        self._queue = WorkQueue[EnvironmentRef]() if queue is None else queue
        # Environments that wait for the caches to be connected again; no timer looks after them.
        self._parked: set[EnvironmentRef] = set()

    def add(self, ref: EnvironmentRef, *, delay: float = 0.0) -> None:
        """Have a round for ``ref`` in ``delay`` seconds at the latest."""
        self._queue.add_after(ref, delay)

    def unpark(self) -> None:
        """The caches are connected again."""
        parked, self._parked = self._parked, set()
        for ref in parked:
            self._queue.add(ref)

    async def run(self, first: Iterable[EnvironmentRef], *, workers: int = WORKERS) -> None:
        """Work until cancelled, beginning with ``first``.

        Raises:
            Fenced: another controller leads.
        """
        for ref in first:
            self._queue.add(ref)
        try:
            await together(*(self._work() for _ in range(workers)))
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
        """One round for ``ref``. The one place that decides: forget, again later, again when connected, give up all.

        Raises:
            Fenced: another controller leads.
        """
        queue = self._queue
        try:
            recheck_after = await self._reconcile(ref)
        except DisconnectedError:
            self._parked.add(ref)
        except OutdatedError as error:
            # Expected: what was written a moment ago has not come back yet. Worth a line only when it goes on.
            delay = queue.add_failed(ref)
            level = _log.warning if queue.failures(ref) >= FAILURES_BEFORE_WARNING else _log.debug
            level("planned again", environment=str(ref), reason=str(error), retry_in=round(delay, 3))
        except Fenced:
            raise
        except StoreError as error:
            # A write without an answer may have happened. Trying again is safe: every write compares what it replaces.
            delay = queue.add_failed(ref)
            _log.warning("not reconciled", environment=str(ref), reason=str(error), retry_in=round(delay, 3))
        except Exception:  # noqa: BLE001 - a defect of ours: it stops this environment alone, and the next state may do
            delay = queue.add_failed(ref)
            _log.exception("not reconciled", environment=str(ref), retry_in=round(delay, 3))
        else:
            queue.forget(ref)
            if recheck_after is not None:
                queue.add_after(ref, recheck_after)
