"""From reading threads to the event loop, in bounded memory: a thread that is ahead of the other end waits."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from contextlib import suppress
from typing import Final, Generic, TypeVar

T = TypeVar("T")

#: What is held at most, besides one item.
BOUND_BYTES: Final = 256 * 1024


class BoundedQueue(Generic[T]):
    """Items with their sizes. ``put`` is for threads and blocks; everything else is for the loop that made it.

    ``ready`` is set, on the loop, when there is something to take; whoever takes clears it first.
    """

    def __init__(self, ready: asyncio.Event, bound: int = BOUND_BYTES) -> None:
        self._loop = asyncio.get_running_loop()
        self._ready = ready
        self._bound = bound
        self._items: deque[tuple[T, int]] = deque()
        self._size = 0
        self._closed = False
        self._changed = threading.Condition()

    def put(self, item: T, size: int) -> bool:
        """Wait until there is room, and leave it there; False if nobody takes any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._size < self._bound)
            if self._closed:
                return False
            first = not self._items
            self._items.append((item, size))
            self._size += size
        if first:
            # RuntimeError: the loop has ended.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._ready.set)
        return True

    def take(self, limit: int) -> list[T]:
        """What is there, in order, up to ``limit`` bytes but at least one item; empty if there is nothing."""
        taken: list[T] = []
        total = 0
        with self._changed:
            while self._items and (not taken or total + self._items[0][1] <= limit):
                item, size = self._items.popleft()
                taken.append(item)
                total += size
            self._size -= total
            self._changed.notify_all()
        return taken

    def close(self) -> None:
        """Nothing is taken any more: whoever waits to put is let go."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()
