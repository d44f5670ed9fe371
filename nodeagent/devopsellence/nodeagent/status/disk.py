"""How much room the engine has for images and volumes, as the heartbeat tells it.

A heartbeat is written when it changes, so this is rounded until it changes seldom: to twentieths of the whole, and back
to where it was only once it has moved by more than one step.
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
    """Looks when the engine is connected, and every five minutes; ``tell`` is given what it sees, on the loop.

    ``data_root`` answers with the folder of the engine's images and volumes, or raises EngineError.
    """

    def __init__(
        self, data_root: Callable[[], Awaitable[str]], threads: ThreadPool, tell: Callable[[DiskSpace], None]
    ) -> None:
        self._data_root = data_root
        self._threads = threads
        self._tell = tell
        self._told = DiskSpace()
        self._soon = asyncio.Event()

    def engine_connected(self) -> None:
        """Look now."""
        self._soon.set()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(CHECK_SECONDS):
                    await self._soon.wait()
            self._soon.clear()
            # An engine on another machine has its data where we cannot look: then nothing is told.
            with suppress(EngineError, OSError):
                root = await self._data_root()
                self._told = rounded(self._told, await self._threads.run(partial(disk_space, root)))
                self._tell(self._told)


def disk_space(folder: str) -> DiskSpace:
    """Of the file system that holds ``folder``, for those who are not root.

    Raises:
        OSError: it is not there, or cannot be looked at.
    """
    seen = os.statvfs(folder)
    size = seen.f_frsize
    return DiskSpace(total_mib=seen.f_blocks * size // _MIB, free_mib=seen.f_bavail * size // _MIB)


def rounded(told: DiskSpace, seen: DiskSpace) -> DiskSpace:
    """What to tell now that ``seen`` is so: ``told``, what was told last, as long as that is about true. Pure."""
    step = max(seen.total_mib / STEPS, 1.0)
    if told.total_mib == seen.total_mib and -step / 2 <= seen.free_mib - told.free_mib < step * 3 / 2:
        return told
    return DiskSpace(total_mib=seen.total_mib, free_mib=int(int(seen.free_mib / step) * step))
