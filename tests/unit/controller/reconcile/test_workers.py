"""Workers after successful and failed rounds."""

from __future__ import annotations

import asyncio

import pytest
from tenacity import wait_fixed

from devopsellence.controller.reconcile.observe import DisconnectedError
from devopsellence.controller.reconcile.workers import ReconcileWorkers
from devopsellence.controller.reconcile.workqueue import WorkQueue
from devopsellence.store.errors import Ambiguous, Fenced, Unavailable
from devopsellence.store.fenced import Outdated
from devopsellence.store.keys import EnvironmentRef
from tests.unit.controller.builders import REF
from tests.unit.controller.reconcile.test_workqueue import FakeLoop

OTHER = EnvironmentRef("acme", "shop", "staging")


class Rounds:
    """A reconcile whose outcomes are given; the last one stays."""

    def __init__(self, *outcomes: Exception | float | None) -> None:
        self.outcomes = list(outcomes)
        self.seen: list[EnvironmentRef] = []

    async def __call__(self, ref: EnvironmentRef) -> float | None:
        self.seen.append(ref)
        outcome = self.outcomes[0] if len(self.outcomes) == 1 else self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def make(*outcomes: Exception | float | None) -> tuple[ReconcileWorkers, WorkQueue[EnvironmentRef], FakeLoop]:
    loop = FakeLoop()
    queue: WorkQueue[EnvironmentRef] = WorkQueue(backoff=wait_fixed(7), call_later=loop.call_later, now=loop.time)
    return ReconcileWorkers(Rounds(*outcomes), queue=queue), queue, loop


async def test_round_that_went_well_is_forgotten() -> None:
    workers, queue, loop = make(None)
    queue.add_failed(REF)
    await workers.process(REF)
    assert queue.failures(REF) == 0
    loop.advance(100)


async def test_round_that_wants_another_gets_it_when_it_is_due() -> None:
    workers, queue, loop = make(600.0)
    await workers.process(REF)
    loop.advance(599)
    assert len(queue) == 0
    loop.advance(1)
    assert len(queue) == 1


@pytest.mark.parametrize("error", [Outdated("x"), Unavailable("x"), Ambiguous("x"), ZeroDivisionError("a defect")])
async def test_round_that_failed_is_retried_after_its_backoff(error: Exception) -> None:
    workers, queue, loop = make(error)
    await workers.process(REF)
    assert queue.failures(REF) == 1
    assert len(queue) == 0
    loop.advance(7)
    assert len(queue) == 1


async def test_environment_that_waits_for_caches_waits_without_timer() -> None:
    workers, queue, loop = make(DisconnectedError("x"))
    await workers.process(REF)
    loop.advance(1000)
    assert len(queue) == 0
    workers.unpark()
    assert len(queue) == 1


async def test_another_leader_ends_all_work() -> None:
    workers, queue, _ = make(Fenced("another one leads"))
    with pytest.raises(Fenced):
        await workers.run([REF, OTHER])
    queue.add(REF)
    assert len(queue) == 0, "the queue is closed"


async def test_bug_with_one_environment_does_not_keep_others_waiting() -> None:
    seen: list[EnvironmentRef] = []
    all_seen = asyncio.Event()

    async def reconcile(ref: EnvironmentRef) -> float | None:
        seen.append(ref)
        if ref == REF:
            raise ZeroDivisionError("a defect")
        all_seen.set()
        return None

    workers = ReconcileWorkers(reconcile)
    running = asyncio.create_task(workers.run([REF, OTHER], workers=1))
    await all_seen.wait()
    running.cancel()
    await asyncio.wait({running})
    assert seen[:2] == [REF, OTHER]
