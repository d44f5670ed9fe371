"""The output of several nodes at once, in order of time, as fast as it can be written."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Final

from devopsellence.cli.agent.log_line import Line
from devopsellence.cli.agent.log_merge import Merge
from devopsellence.cli.agent.tail import Tail
from devopsellence.cli.output import CliError

#: How long a line waits for an earlier one of another node, in seconds: while output is followed, and while what has
#: been written before is read. The second is only for nodes that have fallen silent.
FOLLOWING: Final = 0.15
READING: Final = 3.0
# What waits of all streams together, in bytes; a stream that has its share is not read on.
_MOST: Final = 8 << 20


class Together:
    """Merges what ``tails`` bring and hands it to ``write``, several lines at a time."""

    def __init__(
        self, tails: Sequence[Tail], write: Callable[[list[Line]], Awaitable[None]], *, patience: float
    ) -> None:
        self._tails = tails
        self._write = write
        self._merge = Merge(patience)
        self._share = _MOST // max(1, len(tails))
        self._open = len(tails)
        # Set when there may be something to write, and when there may be room again.
        self._arrived, self._room = asyncio.Event(), asyncio.Event()

    async def run(self, failed: Callable[[CliError], None]) -> None:
        """Until every stream has ended; ``failed`` hears of each that ended in an error, the others go on."""
        for number in range(len(self._tails)):
            self._merge.open(number)
        pumps = [asyncio.create_task(self._pump(number, failed)) for number in range(len(self._tails))]
        try:
            await self._drain(pumps)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, number: int, failed: Callable[[CliError], None]) -> None:
        now = asyncio.get_running_loop().time
        try:
            async with aclosing(self._tails[number].batches()) as batches:
                async for batch in batches:
                    for line in batch:
                        self._merge.push(number, line, now())
                    self._arrived.set()
                    while self._merge.held(number) > self._share:
                        self._room.clear()
                        await self._room.wait()
        except CliError as error:
            failed(error)
        finally:
            self._merge.close(number)
            self._open -= 1
            self._arrived.set()

    async def _drain(self, pumps: Sequence[asyncio.Task[None]]) -> None:
        now = asyncio.get_running_loop().time
        while True:
            self._arrived.clear()
            for pump in pumps:
                if pump.done():
                    pump.result()  # raises what nobody foresaw
            lines = self._merge.ready(now())
            if lines:
                await self._write(lines)
                self._room.set()
                continue
            due = self._merge.due()
            if due is None and self._open == 0:
                return
            try:
                async with asyncio.timeout_at(due):
                    await self._arrived.wait()
            except TimeoutError:
                continue
