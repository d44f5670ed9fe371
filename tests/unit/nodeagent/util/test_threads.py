"""Thread pool for blocking calls."""

from __future__ import annotations

import asyncio
import threading
from functools import partial

import pytest

from devopsellence.nodeagent.util.threads import ThreadPool

SECONDS = 20


async def test_pool_returns_results_and_raises_errors() -> None:
    pool = ThreadPool(1, "test")
    assert await pool.run(lambda: threading.current_thread().name) == "test"
    with pytest.raises(ZeroDivisionError):
        await pool.run(lambda: 1 // 0)


async def test_pool_runs_at_most_its_size_at_once() -> None:
    pool, started, release = ThreadPool(2, "test"), threading.Semaphore(0), threading.Event()

    def block(number: int) -> int:
        started.release()
        release.wait(SECONDS)
        return number

    calls = [asyncio.create_task(pool.run(partial(block, number))) for number in range(4)]
    for _ in range(2):
        assert await asyncio.to_thread(started.acquire, timeout=SECONDS)
    assert not started.acquire(blocking=False)
    release.set()
    async with asyncio.timeout(SECONDS):
        assert await asyncio.gather(*calls) == [0, 1, 2, 3]


async def test_cancelled_call_runs_to_its_end() -> None:
    pool, started, release, ended = ThreadPool(1, "test"), threading.Event(), threading.Event(), threading.Event()

    def block() -> None:
        started.set()
        release.wait(SECONDS)
        ended.set()

    call = asyncio.create_task(pool.run(block))
    async with asyncio.timeout(SECONDS):
        await asyncio.to_thread(started.wait, SECONDS)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    release.set()
    assert await asyncio.to_thread(ended.wait, SECONDS)
