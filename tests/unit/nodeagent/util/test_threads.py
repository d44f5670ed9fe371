"""Thread pool for blocking calls."""

from __future__ import annotations

import asyncio
import math
import threading
from functools import partial

import pytest

from devopsellence.nodeagent.util.threads import MOST_OVERDUE, ThreadPool

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


@pytest.mark.parametrize("patience", [0.0, math.inf], ids=["overdue", "cancelled"])
async def test_call_that_hangs_keeps_no_other_waiting(patience: float) -> None:
    pool, started, release = ThreadPool(1, "test", patience), threading.Event(), threading.Event()

    def block() -> str:
        started.set()
        release.wait(SECONDS)
        return "ended"

    async with asyncio.timeout(SECONDS):
        hanging = asyncio.create_task(pool.run(block))
        await asyncio.to_thread(started.wait, SECONDS)
        if patience:
            hanging.cancel()
        assert await pool.run(lambda: "answered") == "answered"
        release.set()
        await asyncio.wait([hanging])
        assert await pool.run(lambda: "answered") == "answered"


async def test_calls_that_hang_have_a_limit() -> None:
    pool, started, release = ThreadPool(1, "test", 0.0), threading.Semaphore(0), threading.Event()

    def block() -> None:
        started.release()
        release.wait(SECONDS)

    async with asyncio.timeout(SECONDS):
        hanging = [asyncio.create_task(pool.run(block)) for _ in range(MOST_OVERDUE + 2)]
        for _ in range(MOST_OVERDUE + 1):
            assert await asyncio.to_thread(started.acquire, timeout=SECONDS)
        assert not started.acquire(blocking=False), "one thread more than the replaced ones"
        release.set()
        await asyncio.gather(*hanging)


async def test_call_of_nobody_is_not_begun() -> None:
    pool, started, release = ThreadPool(1, "test", math.inf), threading.Event(), threading.Event()
    begun: list[str] = []

    def block() -> None:
        started.set()
        release.wait(SECONDS)

    async with asyncio.timeout(SECONDS):
        first = asyncio.create_task(pool.run(block))
        await asyncio.to_thread(started.wait, SECONDS)
        second = asyncio.create_task(pool.run(lambda: begun.append("second")))
        third = asyncio.create_task(pool.run(lambda: begun.append("third")))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.wait([second])
        release.set()
        await asyncio.gather(first, third)
    assert begun == ["third"]
