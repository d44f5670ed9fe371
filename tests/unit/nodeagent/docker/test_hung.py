"""Containers about which the engine does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from devopsellence.nodeagent.docker.errors import ContainerHung, EngineUnavailable, NotFound, TimedOut
from devopsellence.nodeagent.docker.hung import HungContainers

SECONDS = 20


class Engine:
    """Engine whose answers about containers the test gives."""

    def __init__(self) -> None:
        self.inspections: asyncio.Queue[str] = asyncio.Queue()
        self.changes: asyncio.Queue[str] = asyncio.Queue()
        self.answers: dict[str, asyncio.Future[None]] = {}
        self.is_gone = False
        self.pings: asyncio.Queue[None] = asyncio.Queue()
        self.hung = HungContainers(self.inspect, self.ping, self.changes.put_nowait, patience=0.001)

    async def inspect(self, container: str) -> None:
        self.inspections.put_nowait(container)
        self.answers[container] = asyncio.get_running_loop().create_future()
        await self.answers[container]

    async def ping(self) -> None:
        self.pings.put_nowait(None)
        if self.is_gone:
            raise EngineUnavailable("gone")

    async def change(self) -> str:
        """Return the container that began to hang, or answers again, once there is one."""
        return await self.changes.get()


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    engine = Engine()
    async with asyncio.timeout(SECONDS):
        yield engine
    engine.hung.clear()


async def never() -> str:
    await asyncio.get_running_loop().create_future()
    return "never"


async def answer() -> str:
    return "answer"


async def refuse() -> str:
    raise NotFound("no such container")


async def test_answers_are_passed_on(engine: Engine) -> None:
    assert await engine.hung.guard("c1", answer()) == "answer"
    with pytest.raises(NotFound):
        await engine.hung.guard("c1", refuse())
    assert not engine.hung.since


async def test_container_without_an_answer_hangs_and_no_other(engine: Engine) -> None:
    calls = [asyncio.create_task(engine.hung.guard("c1", never())) for _ in range(3)]
    assert await engine.change() == "c1"
    for call in calls:
        with pytest.raises(ContainerHung):
            await call
    assert set(engine.hung.since) == {"c1"}
    with pytest.raises(ContainerHung):
        await engine.hung.guard("c1", answer())
    assert await engine.hung.guard("c2", answer()) == "answer"
    assert engine.inspections.qsize() == 1, "a single question waits"


async def test_hung_container_recovers_with_the_answer(engine: Engine) -> None:
    with pytest.raises(ContainerHung):
        await engine.hung.guard("c1", never())
    assert await engine.change() == "c1"
    engine.answers["c1"].set_result(None)
    assert await engine.change() == "c1"
    assert not engine.hung.since
    assert await engine.hung.guard("c1", answer()) == "answer"


async def test_inspection_goes_on_after_a_timeout(engine: Engine) -> None:
    engine.hung.suspect("c1")
    for _ in range(3):
        assert await engine.inspections.get() == "c1"
        engine.answers["c1"].set_exception(TimedOut("no answer for 60 s"))
    assert await engine.inspections.get() == "c1"
    assert set(engine.hung.since) == {"c1"}
    engine.answers["c1"].set_exception(NotFound("removed meanwhile"))
    assert [await engine.change() for _ in range(2)] == ["c1", "c1"]
    assert not engine.hung.since


async def test_engine_that_does_not_answer_at_all_is_no_containers_fault(engine: Engine) -> None:
    engine.is_gone = True
    call = asyncio.create_task(engine.hung.guard("c1", never()))
    for _ in range(3):
        await engine.pings.get()
    assert not engine.hung.since
    assert not call.done()
    call.cancel()


async def test_slow_call_goes_on_while_inspections_are_answered(engine: Engine) -> None:
    result: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def slow() -> str:
        return await result

    call = asyncio.create_task(engine.hung.guard("c1", slow()))
    for _ in range(3):
        assert await engine.inspections.get() == "c1"
        engine.answers["c1"].set_result(None)
    result.set_result("stopped after its grace period")
    assert await call == "stopped after its grace period"


async def test_lost_connection_clears_everything(engine: Engine) -> None:
    engine.hung.suspect("c1")
    engine.hung.clear()
    assert not engine.hung.since
    assert await engine.hung.guard("c1", answer()) == "answer"
