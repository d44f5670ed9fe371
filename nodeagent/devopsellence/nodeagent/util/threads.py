"""A bounded set of threads for blocking calls, that ends with the process and shrinks when there is nothing to do.

The standard library's pool keeps every thread it ever started, and at exit waits for all of them; the agent must rest
in little memory, and must be able to end while the engine sits out a container's grace period.
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
    """At most ``size`` daemon threads, started when needed, gone after 20 s without work. Lives on one event loop."""

    def __init__(self, size: int, name: str) -> None:
        self._size = size
        self._name = name
        self._work: queue.SimpleQueue[tuple[asyncio.AbstractEventLoop, asyncio.Future[Any], Callable[[], Any]]]
        self._work = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._idle = 0

    async def run(self, call: Callable[[], T]) -> T:
        """What ``call`` returns or raises. When the waiting task is cancelled, the call still runs to its end."""
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
                    # Work that came in this instant counted on this thread.
                    if self._work.empty():
                        self._idle -= 1
                        self._threads -= 1
                        return
                    self._idle -= 1
                    continue
            with self._lock:
                self._idle -= 1
            _carry_out(loop, future, call)
            del future, call


def _carry_out(loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any], call: Callable[[], Any]) -> None:
    result: Any = None
    failure: BaseException | None = None
    try:
        result = call()
    except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to the one who waits
        failure = error
    # RuntimeError: the loop has ended, and nobody waits any more.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(_deliver, future, result, failure)


def _deliver(future: asyncio.Future[Any], result: Any, failure: BaseException | None) -> None:
    if future.done():
        return
    if failure is not None:
        future.set_exception(failure)
    else:
        future.set_result(result)
