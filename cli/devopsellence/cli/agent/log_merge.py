"""Merging the log lines of several nodes in the order of time.

A line is printed as soon as all open streams have a line waiting, because then no earlier line can arrive, or after
waiting for ``patience`` seconds, so that a silent stream does not block the rest. The order of finished streams is
exact; the order of followed streams is exact for lines that arrive within ``patience``.
"""

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

# Approximate size of a line in memory without the text, in bytes.
_OVERHEAD: Final = 250


class MergeBuffer:
    """Buffer that sorts lines by time: :meth:`push` adds lines of a stream, :meth:`ready` returns lines in order.

    Pure: the caller passes the time. The lines of a container keep their order even if the clock was set back.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._sequence = 0
        # (time, sequence, stream, line): the sequence decides between equal times, so lines are never compared.
        self._heap: list[tuple[int, int, Hashable, OutputLine]] = []
        # (when it arrived, time, sequence), oldest arrival first; may still name lines that have gone out.
        self._arrivals: deque[tuple[float, int, int]] = deque()
        # Position of the last line returned; later arrivals with an earlier position are not held.
        self._out = (-1, -1)
        # Waiting lines and their bytes, by open stream.
        self._waiting: dict[Hashable, int] = {}
        self._bytes: dict[Hashable, int] = {}
        # Number of open streams without a waiting line.
        self._silent = 0
        self._latest: dict[tuple[str, str], int] = {}

    def open(self, stream: Hashable) -> None:
        """Add a stream; lines of other streams wait for its lines."""
        self._waiting[stream] = self._bytes[stream] = 0
        self._silent += 1

    def close(self, stream: Hashable) -> None:
        """End a stream; its waiting lines are still returned."""
        if self._waiting.pop(stream, None) == 0:
            self._silent -= 1
        self._bytes.pop(stream, None)

    def held(self, stream: Hashable) -> int:
        """Return the approximate bytes of waiting lines of a stream."""
        return self._bytes.get(stream, 0)

    def push(self, stream: Hashable, line: OutputLine, now: float) -> None:
        """Add a line of an open stream."""
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
        """Return the lines due at ``now``, in order, and remove them from the buffer."""
        last_due = max(self._out, self._last_due(now))
        out: list[OutputLine] = []
        while self._heap and (self._silent == 0 or self._heap[0][:2] <= last_due):
            out.append(self._pop())
        while self._arrivals and self._arrivals[0][1:] <= self._out:
            self._arrivals.popleft()
        return out

    def due(self) -> float | None:
        """Return the time at which the next line is due without further arrivals; None if no line waits."""
        return self._arrivals[0][0] + self._patience if self._arrivals else None

    def _last_due(self, now: float) -> tuple[int, int]:
        """Return the position of the last line that waited for ``patience``; all lines before it are due too."""
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


#: Seconds for which a line waits for earlier lines of other nodes: while following, and while reading past output. The
#: second limit matters only for nodes that stop sending.
FOLLOW_WAIT_SECONDS: Final = 0.15
READ_WAIT_SECONDS: Final = 3.0
# Maximum bytes of waiting lines of all streams; a stream beyond its share is not read.
_MOST: Final = 2 << 20


class LogMerger:
    """Merger of log streams; passes lines in order of time to ``write``, several at a time."""

    def __init__(
        self, streams: Sequence[NodeLogStream], write: Callable[[list[OutputLine]], Awaitable[None]], *, patience: float
    ) -> None:
        self._streams = streams
        self._write = write
        self._merge = MergeBuffer(patience)
        self._share = _MOST // max(1, len(streams))
        self._open = len(streams)
        # Set when lines may be due, and when the buffer may have room.
        self._arrived, self._room = asyncio.Event(), asyncio.Event()

    async def run(self, failed: Callable[[CliError], None]) -> None:
        """Merge until all streams have ended; ``failed`` is called for a stream with an error, the rest continue."""
        for number in range(len(self._streams)):
            self._merge.open(number)
        pumps = [asyncio.create_task(self._pump(number, failed)) for number in range(len(self._streams))]
        try:
            await self._drain(pumps)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, number: int, failed: Callable[[CliError], None]) -> None:
        now = asyncio.get_running_loop().time
        try:
            async with aclosing(self._streams[number].batches()) as batches:
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
                    pump.result()  # raises unexpected errors
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
