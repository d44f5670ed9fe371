"""Queue of keys to process, after client-go's ``util/workqueue``.

The queue holds keys, never events: a key added many times while waiting is handed out once, and never to two workers at
the same time. A key added while a worker processes it is handed out again afterwards, so no change is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Any, Final, Generic, Protocol, TypeVar

from tenacity import RetryCallState, Retrying, wait_random_exponential
from tenacity.wait import wait_base

K = TypeVar("K", bound=Hashable)

# Full jitter: uniformly between 10 ms and 50 ms, 100 ms, 200 ms … 30 s.
DEFAULT_BACKOFF: Final[wait_base] = wait_random_exponential(multiplier=0.05, min=0.01, max=30)
_RETRYING: Final = Retrying()


class Timer(Protocol):
    """Result of ``call_later``: asyncio.TimerHandle, or a fake in tests."""

    def when(self) -> float: ...

    def cancel(self) -> None: ...


class CallLater(Protocol):
    """``loop.call_later``: run ``callback(argument)`` after ``delay`` seconds."""

    def __call__(self, delay: float, callback: Callable[[Any], object], argument: Any, /) -> Timer: ...


class WorkQueue(Generic[K]):
    """Queue with backoff and timers, for one event loop; not thread-safe."""

    def __init__(
        self,
        *,
        backoff: wait_base = DEFAULT_BACKOFF,
        call_later: CallLater | None = None,
        now: Callable[[], float] | None = None,
    ) -> None:
        """``backoff``: delay of a key after failures. ``call_later`` and ``now``: those of the event loop if None."""
        # Keys in order of arrival: each in _dirty, not in _processing, and only once.
        self._queue: asyncio.Queue[K] = asyncio.Queue()
        # Keys to process. Keys missing from _queue are in _processing and wait for done().
        self._dirty: set[K] = set()
        # Keys with a worker. A key is in _dirty as well if it was added meanwhile.
        self._processing: set[K] = set()
        # At most one timer per key, the earliest requested; none for a key in _dirty, unless requested later. Each
        # round requests the next timer of its key, so an earlier timer may replace a later timer.
        self._timers: dict[K, Timer] = {}
        # Consecutive failures by key; absent: none.
        self._failures: dict[K, int] = {}
        self._closed = False
        self._backoff = backoff
        self._call_later = call_later
        self._now = now

    def __len__(self) -> int:
        """Return the number of keys that wait for a worker."""
        return self._queue.qsize()

    def add(self, key: K) -> None:
        """Queue ``key`` for the next free worker."""
        if timer := self._timers.pop(key, None):
            timer.cancel()
        if self._closed or key in self._dirty:
            return
        self._dirty.add(key)
        if key not in self._processing:
            self._queue.put_nowait(key)

    def add_after(self, key: K, delay: float) -> None:
        """Queue ``key`` in ``delay`` seconds at the latest; at once if ``delay`` is not positive."""
        if delay <= 0:
            self.add(key)
            return
        if self._closed:
            return
        if pending := self._timers.get(key):
            if pending.when() <= self._time() + delay:
                return
            pending.cancel()
        call_later = self._call_later or asyncio.get_running_loop().call_later
        self._timers[key] = call_later(delay, self._due, key)

    def add_failed(self, key: K) -> float:
        """Queue ``key`` again after its backoff; return the delay in seconds."""
        attempts = self._failures[key] = self._failures.get(key, 0) + 1
        state = RetryCallState(_RETRYING, None, (), {})
        state.attempt_number = attempts
        delay = self._backoff(state)
        self.add_after(key, delay)
        return delay

    def failures(self, key: K) -> int:
        """Return the number of consecutive failures of ``key``."""
        return self._failures.get(key, 0)

    def forget(self, key: K) -> None:
        """Forget the failures of ``key`` after a success: the next failure starts with the shortest backoff."""
        self._failures.pop(key, None)

    async def get(self) -> K:
        """Wait for the next key and return it. The caller must call :meth:`done` with the key."""
        key = await self._queue.get()
        self._dirty.discard(key)
        self._processing.add(key)
        return key

    def done(self, key: K) -> None:
        """Record that the worker has finished with ``key``, successfully or not."""
        self._processing.discard(key)
        if key in self._dirty and not self._closed:
            self._queue.put_nowait(key)

    def close(self) -> None:
        """Cancel all timers and accept no further keys."""
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _due(self, key: K) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def _time(self) -> float:
        return self._now() if self._now else asyncio.get_running_loop().time()
