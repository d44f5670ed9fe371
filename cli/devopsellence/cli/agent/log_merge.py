"""The lines of several streams in the order of their times. Pure: the caller says what time it is.

A line goes out as soon as every other open stream has said something, since nothing earlier can come then, or when it
has waited for ``patience`` seconds, so that a silent stream holds nobody up. Finished streams are merged exactly; those
that are followed are as well ordered as their lines arrive within the patience.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from heapq import heappop, heappush
from typing import Final

from devopsellence.cli.agent.log_line import Line

# What a line takes besides its text, about.
_OVERHEAD: Final = 250


class Merge:
    """Lines go in with :meth:`push`, stream by stream, and come out of :meth:`ready` in order.

    The lines of one container keep their order even where its clock was set back in between.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._sequence = 0
        # (time, sequence, stream, line): the sequence decides between equal times, so lines are never compared.
        self._heap: list[tuple[int, int, Hashable, Line]] = []
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

    def push(self, stream: Hashable, line: Line, now: float) -> None:
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

    def ready(self, now: float) -> list[Line]:
        """The lines that may go out at ``now``, in order."""
        last_due = max(self._out, self._last_due(now))
        out: list[Line] = []
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

    def _pop(self) -> Line:
        at, sequence, stream, line = heappop(self._heap)
        self._out = max(self._out, (at, sequence))
        if stream in self._waiting:
            self._waiting[stream] -= 1
            self._bytes[stream] -= len(line.text) + _OVERHEAD
            if self._waiting[stream] == 0:
                self._silent += 1
        return line
