"""Giving memory back when there is nothing to do: an agent rests most of its life, beside the workloads."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import sys
from contextlib import suppress
from typing import Final

#: After this long without work.
IDLE_SECONDS: Final = 5.0
_M_ARENA_MAX: Final = -8


def limit_memory() -> None:
    """To be called first: before there are threads, and before structlog is imported.

    Keeps glibc from giving each thread a heap of its own, and structlog from loading rich for tracebacks on terminals:
    4 MB that an agent which writes JSON never uses.
    """
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type]
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


class MemoryTrimmer:
    """Call :meth:`stir` whenever there is work."""

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None
        self._until = 0.0

    def start(self) -> None:
        """All is there: what is here now stays, and the collector need not look at it again and again."""
        gc.freeze()
        self.touch()

    def touch(self) -> None:
        """There is work; rest begins five seconds after the last of these."""
        loop = asyncio.get_running_loop()
        self._until = loop.time() + IDLE_SECONDS
        if self._timer is None:
            self._timer = loop.call_at(self._until, self._look)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() < self._until:
            self._timer = loop.call_at(self._until, self._look)
            return
        self._timer = None
        gc.collect()
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
