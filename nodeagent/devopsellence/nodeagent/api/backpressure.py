"""Bounded queue from reader threads to the event loop: a thread ahead of the consumer waits."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from contextlib import suppress
from typing import Final, Generic, TypeVar

T = TypeVar("T")

#: Limit of the queue; a single larger item is accepted too.
BOUND_BYTES: Final = 256 * 1024


class BoundedQueue(Generic[T]):
    """Queue of items with sizes. ``put`` is for threads and blocks; everything else is for the event loop of the
    creator.

    ``ready`` is set, on the event loop, when items are available; the consumer clears it before taking.
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
        """Wait for space and add an item; False if the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._size < self._bound)
            if self._closed:
                return False
            first = not self._items
            self._items.append((item, size))
            self._size += size
        if first:
            # RuntimeError: the event loop is closed.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._ready.set)
        return True

    def take(self, limit: int) -> list[T]:
        """Take items in order, up to ``limit`` bytes but at least a single item; empty without items."""
        items: list[T] = []
        size_taken = 0
        with self._changed:
            while self._items and (not items or size_taken + self._items[0][1] <= limit):
                item, size = self._items.popleft()
                items.append(item)
                size_taken += size
            self._size -= size_taken
            self._changed.notify_all()
        return items

    def close(self) -> None:
        """Discard all items, and release waiting threads."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()
