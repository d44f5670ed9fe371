"""A queue of keys to process, after client-go's ``util/workqueue``.

It holds keys, never events: however often a key is added while it waits, it is handed out once, and a key is never in
the hands of two workers. A key that is added while a worker has it is handed out again afterwards, so that no change
is lost.
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
    """What ``call_later`` returns: asyncio.TimerHandle, or a test's own."""

    def when(self) -> float: ...

    def cancel(self) -> None: ...


class CallLater(Protocol):
    """``loop.call_later``: runs ``callback(argument)`` after ``delay`` seconds."""

    def __call__(self, delay: float, callback: Callable[[Any], object], argument: Any, /) -> Timer: ...


class WorkQueue(Generic[K]):
    """Not thread-safe: everything happens on one event loop."""

    def __init__(
        self,
        *,
        backoff: wait_base = DEFAULT_BACKOFF,
        call_later: CallLater | None = None,
        now: Callable[[], float] | None = None,
    ) -> None:
        """``backoff`` says how long a key that failed waits; ``call_later`` and ``now`` are the loop's when None."""
        # Every key here is in _dirty, is not in _processing, and is here once. Order of arrival.
        self._queue: asyncio.Queue[K] = asyncio.Queue()
        # Every key that has to be processed. Those not in _queue are in _processing and wait for done().
        self._dirty: set[K] = set()
        # Every key that a worker has in hand. It may be in _dirty as well: it changed meanwhile.
        self._processing: set[K] = set()
        # At most one timer a key, the earliest that was asked for; none for a key in _dirty, unless it was asked for
        # after that. Whoever processes a key asks for its next timer anew, so an earlier one may swallow a later one.
        self._timers: dict[K, Timer] = {}
        # How often in a row a key has failed. Absent: not at all.
        self._failures: dict[K, int] = {}
        self._closed = False
        self._backoff = backoff
        self._call_later = call_later
        self._now = now

    def __len__(self) -> int:
        """How many keys wait to be handed out now."""
        return self._queue.qsize()

    def add(self, key: K) -> None:
        """Have ``key`` processed as soon as a worker is free."""
        if timer := self._timers.pop(key, None):
            timer.cancel()
        if self._closed or key in self._dirty:
            return
        self._dirty.add(key)
        if key not in self._processing:
            self._queue.put_nowait(key)

    def add_after(self, key: K, delay: float) -> None:
        """Have ``key`` processed in ``delay`` seconds at the latest; at once if that is not positive."""
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
        """Have ``key`` processed again after its backoff; returns that delay in seconds."""
        attempts = self._failures[key] = self._failures.get(key, 0) + 1
        state = RetryCallState(_RETRYING, None, (), {})
        state.attempt_number = attempts
        delay = self._backoff(state)
        self.add_after(key, delay)
        return delay

    def failures(self, key: K) -> int:
        """How often in a row ``key`` has failed."""
        return self._failures.get(key, 0)

    def forget(self, key: K) -> None:
        """``key`` went well: its next failure starts with the shortest backoff."""
        self._failures.pop(key, None)

    async def get(self) -> K:
        """The next key, as soon as there is one. The caller must call :meth:`done` with it."""
        key = await self._queue.get()
        self._dirty.discard(key)
        self._processing.add(key)
        return key

    def done(self, key: K) -> None:
        """The worker has finished with ``key``, well or badly."""
        self._processing.discard(key)
        if key in self._dirty and not self._closed:
            self._queue.put_nowait(key)

    def close(self) -> None:
        """Drop every timer and take no further keys."""
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _due(self, key: K) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def _time(self) -> float:
        return self._now() if self._now else asyncio.get_running_loop().time()
