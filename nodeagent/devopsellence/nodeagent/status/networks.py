"""Number of networks that the engine can still create, as reported in the heartbeat: each environment takes one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from devopsellence.nodeagent.docker.errors import EngineError

#: Several networks are often created or removed together, as by ``docker compose``.
GATHER_SECONDS: Final = 1.0


class NetworkMonitor:
    """Counts after every change of the engine's networks; calls ``report`` on the event loop. ``count`` returns the
    number or raises EngineError."""

    def __init__(self, count: Callable[[], Awaitable[int]], report: Callable[[int], None]) -> None:
        self._count = count
        self._report = report
        self._changed = asyncio.Event()

    def changed(self) -> None:
        """Count soon: the engine is connected, or its networks have changed."""
        self._changed.set()

    async def run(self) -> None:
        """Count after changes, until cancelled."""
        while True:
            await self._changed.wait()
            await asyncio.sleep(GATHER_SECONDS)
            self._changed.clear()
            # Without the engine: again once it is connected.
            with suppress(EngineError):
                self._report(await self._count())
