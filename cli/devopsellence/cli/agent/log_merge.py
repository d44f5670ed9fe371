"""Log lines of several nodes merged in the order of their times."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import aclosing
from heapq import heappop, heappush
from typing import Final

from devopsellence.cli.agent.log_line import OutputLine
from devopsellence.cli.agent.log_stream import NodeLogStream
from devopsellence.cli.output import CliError

# What a line takes besides its text, about.
_OVERHEAD: Final = 250


class MergeBuffer:
    """Lines go in with :meth:`push`, stream by stream, and come out of :meth:`ready` in order.

    The lines of one container keep their order even where its clock was set back in between.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._sequence = 0
        # (time, sequence, stream, line): the sequence decides between equal times, so lines are never compared.
        self._heap: list[tuple[int, int, Hashable, OutputLine]] = []
        # (when it arrived, time, sequence), oldest arrival first; may still name lines that have gone out.
        self._arrivals: deque[tuple[float, int, int]] = deque()
        # The latest, in order, that has gone out: what comes too late for its place is not held any longer.
        self._out = (-1, -1)
        # Of each open stream, how many lines wait and how much they take.
        self._waiting: dict[Hashable, int] = {}
        self._bytes: dict[Hashable, int] = {}
        # How many open streams have no line here.
        self._silent = 0
        self._latest: dict[tuple[str, str], int] = {}

    def open(self, stream: Hashable) -> None:
        """A stream that lines may come from; others are held back for it."""
        self._waiting[stream] = self._bytes[stream] = 0
        self._silent += 1

    def close(self, stream: Hashable) -> None:
        """No more lines come from ``stream``; those that it has brought still go out."""
        if self._waiting.pop(stream, None) == 0:
            self._silent -= 1
        self._bytes.pop(stream, None)

    def held(self, stream: Hashable) -> int:
        """How many bytes the waiting lines of ``stream`` take, about."""
        return self._bytes.get(stream, 0)

    def push(self, stream: Hashable, line: OutputLine, now: float) -> None:
        """Take a line of an open stream."""
        container = (line.node, line.container)
        at = max(line.at, self._latest.get(container, 0))
        self._latest[container] = at
        self._sequence += 1
        heappush(self._heap, (at, self._sequence, stream, line))
        self._arrivals.append((now, at, self._sequence))
        if self._waiting[stream] == 0:
            self._silent -= 1
        self._waiting[stream] += 1
        self._bytes[stream] += len(line.text) + _OVERHEAD

    def ready(self, now: float) -> list[OutputLine]:
        """The lines that may go out at ``now``, in order."""
        last_due = max(self._out, self._last_due(now))
        out: list[OutputLine] = []
        while self._heap and (self._silent == 0 or self._heap[0][:2] <= last_due):
            out.append(self._pop())
        while self._arrivals and self._arrivals[0][1:] <= self._out:
            self._arrivals.popleft()
        return out

    def due(self) -> float | None:
        """When a line will have waited long enough even if nothing more arrives; None when none waits."""
        return self._arrivals[0][0] + self._patience if self._arrivals else None

    def _last_due(self, now: float) -> tuple[int, int]:
        """The latest line in order that has waited long enough: whatever is before it goes out with it."""
        last = (-1, -1)
        while self._arrivals and self._arrivals[0][0] + self._patience <= now:
            _, at, sequence = self._arrivals.popleft()
            last = max(last, (at, sequence))
        return last

    def _pop(self) -> OutputLine:
        at, sequence, stream, line = heappop(self._heap)
        self._out = max(self._out, (at, sequence))
        if stream in self._waiting:
            self._waiting[stream] -= 1
            self._bytes[stream] -= len(line.text) + _OVERHEAD
            if self._waiting[stream] == 0:
                self._silent += 1
        return line


#: How long a line waits for an earlier one of another node, in seconds: while output is followed, and while what has
#: been written before is read. The second is only for nodes that have fallen silent.
FOLLOW_WAIT_SECONDS: Final = 0.15
READ_WAIT_SECONDS: Final = 3.0
# What waits of all streams together, in bytes; a stream that has its share is not read on.
_MOST: Final = 8 << 20


class LogMerger:
    """Merges what ``tails`` bring and hands it to ``write``, several lines at a time."""

    def __init__(
        self, tails: Sequence[NodeLogStream], write: Callable[[list[OutputLine]], Awaitable[None]], *, patience: float
    ) -> None:
        self._tails = tails
        self._write = write
        self._merge = MergeBuffer(patience)
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
