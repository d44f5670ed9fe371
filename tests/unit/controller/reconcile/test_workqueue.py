"""The queue's rules, with a clock that only the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tenacity import RetryCallState, wait_fixed
from tenacity.wait import wait_base

from devopsellence.controller.reconcile.workqueue import DEFAULT_BACKOFF, WorkQueue


@dataclass
class FakeTimer:
    at: float
    callback: Callable[[Any], object]
    argument: Any
    cancelled: bool = False

    def when(self) -> float:
        return self.at

    def cancel(self) -> None:
        self.cancelled = True


@dataclass
class FakeLoop:
    """Stands in for the loop's clock."""

    now: float = 0.0
    timers: list[FakeTimer] = field(default_factory=list)

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[Any], object], argument: Any, /) -> FakeTimer:
        timer = FakeTimer(self.now + delay, callback, argument)
        self.timers.append(timer)
        return timer

    def advance(self, seconds: float) -> None:
        self.now += seconds
        due = [timer for timer in self.timers if timer.at <= self.now and not timer.cancelled]
        self.timers = [timer for timer in self.timers if timer.at > self.now and not timer.cancelled]
        for timer in due:
            timer.callback(timer.argument)


class Doubling(wait_base):
    """1 s, 2 s, 4 s …, without chance."""

    def __call__(self, retry_state: RetryCallState) -> float:
        return float(2 ** (retry_state.attempt_number - 1))


def make(backoff: wait_base | None = None) -> tuple[WorkQueue[str], FakeLoop]:
    loop = FakeLoop()
    return WorkQueue(backoff=backoff or Doubling(), call_later=loop.call_later, now=loop.time), loop


async def test_keys_come_out_in_order_in_which_they_were_first_added() -> None:
    queue, _ = make()
    for key in ("a", "b", "a", "c"):
        queue.add(key)
    assert [await queue.get() for _ in range(3)] == ["a", "b", "c"]
    assert len(queue) == 0


async def test_key_added_many_times_while_it_waits_is_handed_out_once() -> None:
    queue, _ = make()
    for _ in range(100):
        queue.add("a")
    await queue.get()
    queue.done("a")
    assert len(queue) == 0


async def test_key_added_during_processing_is_handed_out_after_done() -> None:
    queue, _ = make()
    queue.add("a")
    await queue.get()
    queue.add("a")
    queue.add("a")
    assert len(queue) == 0, "two workers must never have the same key"
    queue.done("a")
    assert len(queue) == 1
    assert await queue.get() == "a"
    queue.done("a")
    assert len(queue) == 0


async def test_worker_that_waits_gets_next_key() -> None:
    queue, _ = make()
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.add("a")
    assert await waiting == "a"


async def test_cancelled_worker_takes_no_key_with_it() -> None:
    queue, _ = make()
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    queue.add("a")
    assert await queue.get() == "a"


def test_delayed_key_appears_when_it_is_due() -> None:
    queue, loop = make()
    queue.add_after("a", 5)
    loop.advance(4.9)
    assert len(queue) == 0
    loop.advance(0.1)
    assert len(queue) == 1


def test_no_delay_is_at_once() -> None:
    queue, loop = make()
    queue.add_after("a", 0)
    assert len(queue) == 1
    assert not loop.timers


def test_earliest_of_several_delays_counts() -> None:
    queue, loop = make()
    queue.add_after("a", 10)
    queue.add_after("a", 2)
    queue.add_after("a", 5)
    loop.advance(2)
    assert len(queue) == 1
    assert not [timer for timer in loop.timers if not timer.cancelled]


def test_adding_key_at_once_drops_its_timer() -> None:
    queue, loop = make()
    queue.add_after("a", 10)
    queue.add("a")
    assert len(queue) == 1
    assert all(timer.cancelled for timer in loop.timers)


async def test_key_that_fails_waits_longer_each_time_until_it_is_forgotten() -> None:
    queue, loop = make()
    assert [queue.add_failed("a") for _ in range(3)] == [1.0, 2.0, 4.0]
    assert queue.failures("a") == 3
    assert queue.add_failed("b") == 1.0, "each key has its own backoff"
    queue.forget("a")
    assert queue.failures("a") == 0
    assert queue.add_failed("a") == 1.0
    loop.advance(1)
    assert {await queue.get(), await queue.get()} == {"a", "b"}


def test_failing_key_can_still_be_added_at_once_by_change() -> None:
    queue, _ = make(wait_fixed(30))
    queue.add_failed("a")
    queue.add("a")
    assert len(queue) == 1


def test_default_backoff_is_jittered_and_capped() -> None:
    queue, _ = make(DEFAULT_BACKOFF)
    delays = [queue.add_failed("a") for _ in range(200)]
    assert delays[0] <= 0.05
    assert all(0.01 <= delay <= 30 for delay in delays)
    assert len(set(delays[50:])) > 100, "two controllers must not retry in step"


def test_closed_queue_keeps_no_timers_and_takes_no_keys() -> None:
    queue, loop = make()
    queue.add_after("a", 1)
    queue.close()
    queue.add("b")
    queue.add_after("c", 1)
    loop.advance(10)
    assert len(queue) == 0


async def test_workers_share_keys_and_never_one_of_them() -> None:
    queue: WorkQueue[int] = WorkQueue()
    in_hand: set[int] = set()
    processed: list[int] = []
    finished = asyncio.Event()

    async def worker() -> None:
        while True:
            key = await queue.get()
            assert key not in in_hand
            in_hand.add(key)
            await asyncio.sleep(0)
            if len(processed) < 50:
                queue.add(key)
            in_hand.discard(key)
            processed.append(key)
            queue.done(key)
            if len(queue) == 0 and not in_hand:
                finished.set()

    for key in range(10):
        queue.add(key)
    async with asyncio.TaskGroup() as tasks:
        workers = [tasks.create_task(worker()) for _ in range(4)]
        await finished.wait()
        for one in workers:
            one.cancel()
    assert set(processed) == set(range(10))
    assert len(processed) >= 60
