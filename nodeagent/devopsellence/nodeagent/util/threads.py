"""Thread pool for blocking calls: bounded, shrinking when idle, and abandoned at process exit.

The standard library's pool keeps every thread, and waits for all of them at exit. An idle agent must use little memory,
and must be able to exit during a container's grace period.
"""

from __future__ import annotations

import asyncio
import math
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

T = TypeVar("T")

#: Most threads that a pool replaces at the same time.
MOST_OVERDUE: Final = 32
_IDLE_SECONDS: Final = 20.0


class _Call:
    """A call with its place in the pool. ``overdue``: its thread no longer counts, and ends with the call."""

    __slots__ = ("call", "ended", "future", "loop", "overdue", "skipped", "started", "timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any], call: Callable[[], Any]) -> None:
        self.loop = loop
        self.future = future
        self.call = call
        self.timer: asyncio.TimerHandle | None = None
        self.started = self.ended = self.overdue = self.skipped = False


class ThreadPool:
    """At most ``size`` daemon threads, started on demand, ended after 20 s without work. Belongs to a single event
    loop.

    ``patience``: seconds after which a call is overdue. An overdue call, or one that nobody waits for any more, goes
    on, but its thread no longer counts towards ``size`` (up to :data:`MOST_OVERDUE` such threads), so that calls that
    hang do not keep others waiting. ``math.inf``: only when nobody waits. None: calls are never overdue, which keeps
    the order of a pool with a single thread.
    """

    def __init__(self, size: int, name: str, patience: float | None = None) -> None:
        self._size = size
        self._name = name
        self._lets_go = patience is not None
        self._patience = math.inf if patience is None else patience
        self._work: queue.SimpleQueue[_Call] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._idle = 0
        self._overdue = 0

    async def run(self, call: Callable[[], T]) -> T:
        """Run ``call`` on a thread; return its result or raise its error. Cancelling the waiting task does not stop the
        call."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        work = _Call(loop, future, call)
        self._work.put(work)
        self._grow()
        if not self._lets_go:
            return await future
        self._watch(work)
        try:
            return await future
        finally:
            if work.timer is not None:
                work.timer.cancel()
            # Also without an answer: the waiting task was cancelled.
            self._let_go(work)

    def _watch(self, work: _Call) -> None:
        if math.isfinite(self._patience):
            work.timer = work.loop.call_later(self._patience, self._let_go, work)

    def _let_go(self, work: _Call) -> None:
        """Stop counting the thread of a call that runs; a call not started yet is left out if nobody waits for it."""
        with self._lock:
            if not work.started:
                work.skipped = work.future.done()
                if not work.skipped:
                    self._watch(work)
                return
            if work.ended or work.overdue or self._overdue >= MOST_OVERDUE:
                return
            work.overdue = True
            self._overdue += 1
            self._threads -= 1
        self._grow()

    def _grow(self) -> None:
        with self._lock:
            more = self._idle < self._work.qsize() and self._threads < self._size
            self._threads += more
        if more:
            threading.Thread(target=self._serve, name=self._name, daemon=True).start()

    def _serve(self) -> None:
        while True:
            with self._lock:
                self._idle += 1
            try:
                work = self._work.get(timeout=_IDLE_SECONDS)
            except queue.Empty:
                with self._lock:
                    # Work queued at this instant relies on this thread.
                    if self._work.empty():
                        self._idle -= 1
                        self._threads -= 1
                        return
                    self._idle -= 1
                    continue
            with self._lock:
                self._idle -= 1
                work.started = not work.skipped
            if work.started:
                _execute(work)
                with self._lock:
                    work.ended = True
                    if work.overdue:
                        self._overdue -= 1
                        return
            del work


def _execute(work: _Call) -> None:
    result: Any = None
    failure: BaseException | None = None
    try:
        result = work.call()
    except BaseException as error:  # noqa: BLE001 - passed on to the waiting task
        failure = error
    # RuntimeError: the event loop is closed, and no task waits any more.
    try:
        with suppress(RuntimeError):
            work.loop.call_soon_threadsafe(_deliver, work.future, result, failure)
    finally:
        # An error refers to this frame: without a circle, it goes with what it refers to, such as a call with secrets.
        del result, failure


def _deliver(future: asyncio.Future[Any], result: Any, failure: BaseException | None) -> None:
    if future.done():
        return
    if failure is not None:
        future.set_exception(failure)
    else:
        future.set_result(result)
