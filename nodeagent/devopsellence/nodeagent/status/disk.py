"""Disk space of the Docker data root, as reported in the heartbeat.

A heartbeat is written on every change, so the values are rounded to change seldom: to twentieths of the disk, and back
to an earlier value only after a move by more than a step.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Final

from devopsellence.api.v1.stored_pb2 import DiskSpace
from devopsellence.nodeagent.docker.errors import EngineError
from devopsellence.nodeagent.util.threads import ThreadPool

CHECK_SECONDS: Final = 300.0
STEPS: Final = 20
_MIB: Final = 1024 * 1024


class DiskMonitor:
    """Measures on connecting to the engine and every five minutes; calls ``report`` on the event loop. ``data_root``
    returns the engine's data root or raises EngineError."""

    def __init__(
        self, data_root: Callable[[], Awaitable[str]], threads: ThreadPool, report: Callable[[DiskSpace], None]
    ) -> None:
        self._data_root = data_root
        self._threads = threads
        self._report = report
        self._reported = DiskSpace()
        self._check_now = asyncio.Event()

    def engine_connected(self) -> None:
        """Measure now."""
        self._check_now.set()

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(CHECK_SECONDS):
                    await self._check_now.wait()
            self._check_now.clear()
            # The data root of an engine on another machine is not visible here: report nothing.
            with suppress(EngineError, OSError):
                root = await self._data_root()
                self._reported = rounded(self._reported, await self._threads.run(partial(disk_space, root)))
                self._report(self._reported)


def disk_space(folder: str) -> DiskSpace:
    """Return the disk space of the file system of ``folder``, for users other than root.

    Raises:
        OSError: the folder is missing or not accessible.
    """
    stats = os.statvfs(folder)
    size = stats.f_frsize
    return DiskSpace(total_mib=stats.f_blocks * size // _MIB, free_mib=stats.f_bavail * size // _MIB)


def rounded(reported: DiskSpace, current: DiskSpace) -> DiskSpace:
    """Return the values to report for ``current``: ``reported``, the last report, while still roughly true. Pure."""
    step = max(current.total_mib / STEPS, 1.0)
    if reported.total_mib == current.total_mib and -step / 2 <= current.free_mib - reported.free_mib < step * 3 / 2:
        return reported
    return DiskSpace(total_mib=current.total_mib, free_mib=int(int(current.free_mib / step) * step))
