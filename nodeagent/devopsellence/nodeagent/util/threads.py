"""Thread pool for blocking calls: bounded, shrinking when idle, and abandoned at process exit.

The standard library's pool keeps every thread, and waits for all of them at exit. An idle agent must use little memory,
and must be able to exit during a container's grace period.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

T = TypeVar("T")

_IDLE_SECONDS: Final = 20.0


class ThreadPool:
    """At most ``size`` daemon threads, started on demand, ended after 20 s without work. Belongs to a single event
    loop."""

    def __init__(self, size: int, name: str) -> None:
        self._size = size
        self._name = name
        self._work: queue.SimpleQueue[tuple[asyncio.AbstractEventLoop, asyncio.Future[Any], Callable[[], Any]]]
        self._work = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._idle = 0

    async def run(self, call: Callable[[], T]) -> T:
        """Run ``call`` on a thread; return its result or raise its error. Cancelling the waiting task does not stop the
        call."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._work.put((loop, future, call))
        with self._lock:
            more = self._idle < self._work.qsize() and self._threads < self._size
            self._threads += more
        if more:
            threading.Thread(target=self._serve, name=self._name, daemon=True).start()
        return await future

    def _serve(self) -> None:
        while True:
            with self._lock:
                self._idle += 1
            try:
                loop, future, call = self._work.get(timeout=_IDLE_SECONDS)
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
            _execute(loop, future, call)
            del future, call


def _execute(loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any], call: Callable[[], Any]) -> None:
    result: Any = None
    failure: BaseException | None = None
    try:
        result = call()
    except BaseException as error:  # noqa: BLE001 - passed on to the waiting task
        failure = error
    # RuntimeError: the event loop is closed, and no task waits any more.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(_deliver, future, result, failure)


def _deliver(future: asyncio.Future[Any], result: Any, failure: BaseException | None) -> None:
    if future.done():
        return
    if failure is not None:
        future.set_exception(failure)
    else:
        future.set_result(result)
