"""Memory limits of the agent: returning unused memory to the system when idle, in favour of the workloads."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import sys
import warnings
from contextlib import suppress
from typing import Final

#: Trim memory after this long without work.
IDLE_SECONDS: Final = 5.0
_M_ARENA_MAX: Final = -8


def limit_memory() -> None:
    """Reduce memory use; call before starting threads and before importing structlog or Docker's SDK.

    Limits glibc to two malloc arenas, and keeps libraries from importing what an agent never uses: rich, for tracebacks
    of structlog on terminals (4 MB), and charset_normalizer, for texts of unknown encoding in requests (3 MB), while
    Docker's API speaks JSON.
    """
    for unused in ("rich", "chardet", "charset_normalizer"):
        sys.modules.setdefault(unused, None)  # type: ignore[arg-type]
    warnings.filterwarnings("ignore", "Unable to find acceptable character detection dependency")
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
