"""Memory limits of the agent: returning unused memory to the system when idle, in favour of the workloads."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import sys
from contextlib import suppress
from typing import Final

#: Trim memory after this long without work.
IDLE_SECONDS: Final = 5.0
_M_ARENA_MAX: Final = -8


def limit_memory() -> None:
    """Reduce memory use; call before starting threads and before importing structlog.

    Limits glibc to two malloc arenas, and keeps structlog from importing rich for tracebacks on terminals: 4 MB never
    used by an agent with JSON logs.
    """
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type]
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


class MemoryTrimmer:
    """Trims memory after :data:`IDLE_SECONDS` without :meth:`touch`."""

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = 0.0

    def start(self) -> None:
        """Exempt everything allocated so far from garbage collection, and start the idle timer."""
        gc.freeze()
        self.touch()

    def touch(self) -> None:
        """Restart the idle timer; call on any work."""
        loop = asyncio.get_running_loop()
        self._deadline = loop.time() + IDLE_SECONDS
        if self._timer is None:
            self._timer = loop.call_at(self._deadline, self._check)

    def _check(self) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() < self._deadline:
            self._timer = loop.call_at(self._deadline, self._check)
            return
        self._timer = None
        gc.collect()
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
