"""Bounded queue from threads to the event loop."""

from __future__ import annotations

import asyncio
import threading

from devopsellence.nodeagent.api.backpressure import BoundedQueue

SECONDS = 20


async def test_queue_keeps_order_and_a_fast_thread_waits() -> None:
    ready = asyncio.Event()
    queue: BoundedQueue[int] = BoundedQueue(ready, bound=100)
    put: list[bool] = []
    thread = threading.Thread(target=lambda: put.extend(queue.put(number, 30) for number in range(50)))
    thread.start()
    received: list[int] = []
    async with asyncio.timeout(SECONDS):
        while len(received) < 50:
            await ready.wait()
            ready.clear()
            while batch := queue.take(70):
                assert len(batch) <= 2
                received += batch
                # 100 bytes and the item that went beyond them.
                assert len(put) <= len(received) + 4
    await asyncio.to_thread(thread.join)
    assert received == list(range(50))
    assert put == [True] * 50


async def test_oversized_item_is_taken_alone() -> None:
    queue: BoundedQueue[str] = BoundedQueue(asyncio.Event(), bound=10)
    assert await asyncio.to_thread(queue.put, "large", 1000)
    assert queue.take(5) == ["large"]
    assert queue.take(5) == []


async def test_close_releases_waiting_threads() -> None:
    queue: BoundedQueue[str] = BoundedQueue(asyncio.Event(), bound=1)
    assert await asyncio.to_thread(queue.put, "one", 1)
    waiting = asyncio.create_task(asyncio.to_thread(queue.put, "two", 1))
    await asyncio.sleep(0)
    queue.close()
    async with asyncio.timeout(SECONDS):
        assert await waiting is False
    assert await asyncio.to_thread(queue.put, "three", 1) is False
    assert queue.take(10) == []
