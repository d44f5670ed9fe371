"""From threads to the loop, in bounded memory."""

from __future__ import annotations

import asyncio
import threading

from devopsellence.nodeagent.api.backpressure import BoundedQueue

SECONDS = 20


async def test_everything_arrives_in_order_and_the_thread_that_is_ahead_waits() -> None:
    ready = asyncio.Event()
    funnel: BoundedQueue[int] = BoundedQueue(ready, bound=100)
    put: list[bool] = []
    thread = threading.Thread(target=lambda: put.extend(funnel.put(number, 30) for number in range(50)))
    thread.start()
    taken: list[int] = []
    async with asyncio.timeout(SECONDS):
        while len(taken) < 50:
            await ready.wait()
            ready.clear()
            while batch := funnel.take(70):
                assert len(batch) <= 2
                taken += batch
                # 100 bytes and the item that went beyond them.
                assert len(put) <= len(taken) + 4
    await asyncio.to_thread(thread.join)
    assert taken == list(range(50))
    assert put == [True] * 50


async def test_an_item_larger_than_everything_goes_alone() -> None:
    funnel: BoundedQueue[str] = BoundedQueue(asyncio.Event(), bound=10)
    assert await asyncio.to_thread(funnel.put, "large", 1000)
    assert funnel.take(5) == ["large"]
    assert funnel.take(5) == []


async def test_closing_lets_go_whoever_waits() -> None:
    funnel: BoundedQueue[str] = BoundedQueue(asyncio.Event(), bound=1)
    assert await asyncio.to_thread(funnel.put, "one", 1)
    waiting = asyncio.create_task(asyncio.to_thread(funnel.put, "two", 1))
    await asyncio.sleep(0)
    funnel.close()
    async with asyncio.timeout(SECONDS):
        assert await waiting is False
    assert await asyncio.to_thread(funnel.put, "three", 1) is False
    assert funnel.take(10) == []
