"""Upkeep of the agent's folder: files damaged by hand are written again, failed writes are repeated.

Damage is noticed through inotify. A full or read-only disk sends no event when it can be written again, so failed
writes are repeated with backoff; the folder is also tested every few minutes, so that the heartbeat tells of a full
disk before the next deploy does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import structlog
from tenacity import AsyncRetrying, retry_if_result, wait_exponential, wait_random

from devopsellence.nodeagent.state_files import TEMPORARY, StateFiles
from devopsellence.nodeagent.util.inotify import FolderWatch
from devopsellence.nodeagent.util.threads import ThreadPool

#: Interval of tests without an event.
TEST_SECONDS: Final = 300.0
_RETRY: Final = wait_exponential(multiplier=0.25, max=10.0) + wait_random(0, 0.5)
_log = structlog.get_logger()


class StateKeeper:
    """Keeps files as they should be; :meth:`run` works until cancelled.

    ``changed(problem)`` is called on the event loop when ``files.problem`` changes, ``restored(paths)`` after files
    were written again.
    """

    def __init__(
        self,
        files: StateFiles,
        disk: ThreadPool,
        changed: Callable[[str], None],
        restored: Callable[[list[Path]], None] = lambda paths: None,
    ) -> None:
        self._files = files
        self._disk = disk
        self._changed = changed
        self._restored = restored
        self._reported = ""
        self._wake = asyncio.Event()
        #: Files to check; None: all.
        self._touched: set[Path] | None = None
        self._watch: FolderWatch | None = None
        self._retrying: asyncio.Task[None] | None = None

    @property
    def watched(self) -> frozenset[Path]:
        """Folders in which damage is noticed at once."""
        return self._watch.folders if self._watch is not None else frozenset()

    async def run(self) -> None:
        """Keep the files until cancelled."""
        loop = asyncio.get_running_loop()
        self._files.notify = partial(_call_on, loop, self._wake.set)
        try:
            self._watch = FolderWatch()
            loop.add_reader(self._watch.descriptor, self._read_events, self._watch)
        except OSError as error:
            _log.warning("damage to the agent's folder is noticed late: it cannot be watched", error=error.strerror)
        try:
            await self._disk.run(self._files.probe)
            while True:
                await self._pass()
                with suppress(TimeoutError):
                    async with asyncio.timeout(TEST_SECONDS):
                        await self._wake.wait()
                if not self._wake.is_set():
                    self._touched = None
                    await self._disk.run(self._files.probe)
        finally:
            if self._retrying is not None:
                self._retrying.cancel()
            if self._watch is not None:
                loop.remove_reader(self._watch.descriptor)
                self._watch.close()

    async def _pass(self) -> None:
        self._wake.clear()
        touched, self._touched = self._touched, set()
        # Watched before the check: what happens in between is an event.
        await self._watch_folders()
        if touched is None or touched:
            restored = await self._disk.run(partial(self._files.check, touched))
            if restored:
                # Folders may have been created again.
                await self._watch_folders()
                self._restored(restored)
        self._report()
        if self._files.problem and (self._retrying is None or self._retrying.done()):
            self._retrying = asyncio.create_task(self._retry())

    async def _watch_folders(self) -> None:
        if self._watch is not None:
            self._watch.add(await self._disk.run(lambda: sorted(self._files.folders)))

    async def _retry(self) -> None:
        """Repeat failed writes until none is left."""
        retrying = AsyncRetrying(retry=retry_if_result(lambda done: not done), wait=_RETRY)
        await retrying(self._disk.run, self._files.retry)
        self._wake.set()

    def _report(self) -> None:
        problem = self._files.problem
        if problem == self._reported:
            return
        self._reported = problem
        if problem:
            _log.error("the agent's folder cannot be written", problem=problem)
        else:
            _log.info("the agent's folder can be written again")
        self._changed(problem)

    def _read_events(self, watch: FolderWatch) -> None:
        changed = watch.changed()
        if changed is None or self._touched is None:
            self._touched = None
        else:
            self._touched |= {path for path in changed if path.suffix != TEMPORARY}
        if self._touched is None or self._touched:
            self._wake.set()


def _call_on(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    # RuntimeError: the loop has ended.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(call)
