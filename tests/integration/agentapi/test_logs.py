"""Logs of containers: history and new lines."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from devopsellence.api.v1.agent_pb2 import LogLine, LogsRequest
from devopsellence.nodeagent.docker.frames import MAX_LINE_BYTES
from tests.integration.agentapi.api_node import ENV, ApiNode
from tests.support.docker import docker
from tests.support.until import eventually

if TYPE_CHECKING:
    from devopsellence.api.v1.agent_pb2_grpc import AgentAsyncStub

pytestmark = pytest.mark.docker
SECONDS = 30


def request(*services: str, follow: bool = False, lines: int = -1) -> LogsRequest:
    return LogsRequest(environment=str(ENV), services=services, follow=follow, lines=lines)


async def lines_of(stub: AgentAsyncStub, wanted: LogsRequest) -> AsyncIterator[LogLine]:
    async for answer in stub.Logs(wanted):
        for line in answer.lines:
            yield line


async def until(lines: AsyncIterator[LogLine], enough: Callable[[list[LogLine]], bool]) -> list[LogLine]:
    """Return the lines up to the first for which ``enough`` holds."""
    seen: list[LogLine] = []

    async def read() -> None:
        while not enough(seen):
            seen.append(await anext(lines))

    await asyncio.wait_for(read(), SECONDS)
    return seen


async def ended(here: ApiNode, service: str, script: str, release: int = 1) -> str:
    container = await here.start(service, "sh", "-c", script, release=release)
    await asyncio.to_thread(docker, "wait", container)
    await here.engine.refresh(container)
    return container


async def test_logs_have_stream_time_and_container(here: ApiNode) -> None:
    before = time.time()
    container = await ended(here, "web", "echo one; echo two >&2; printf three")
    async with here.client() as stub:
        lines = [line async for line in lines_of(stub, request())]
    # Between the two streams the engine keeps no order.
    assert [line.line for line in lines if not line.stderr] == [b"one", b"three"]
    assert [line.line for line in lines if line.stderr] == [b"two"]
    assert {(line.service, line.container) for line in lines} == {("web", container[:12])}
    assert all(before - 1 < line.at.seconds + line.at.nanos / 1e9 < time.time() + 1 for line in lines)


async def test_follower_of_silent_service_gets_keepalives(here: ApiNode) -> None:
    await here.start("web", "sleep", "100")
    async with here.client() as stub:
        call = stub.Logs(request("web", follow=True))
        # What the command line takes for the connection.
        await asyncio.wait_for(call.initial_metadata(), SECONDS)
        call.cancel()


async def test_tail_applies_to_each_container_of_chosen_services(here: ApiNode) -> None:
    await ended(here, "web", "seq 1 1000")
    await ended(here, "worker", "seq 1 5")
    await ended(here, "db", "seq 1 5")
    async with here.client() as stub:
        lines = [line async for line in lines_of(stub, request("web", "worker", lines=2))]
        none = [line async for line in lines_of(stub, request(lines=0))]
    of = {service: [line.line for line in lines if line.service == service] for service in ("web", "worker", "db")}
    assert of == {"web": [b"999", b"1000"], "worker": [b"4", b"5"], "db": []}
    assert none == []


async def test_since_omits_older_lines(here: ApiNode) -> None:
    await ended(here, "web", "seq 1 10")
    async with here.client() as stub:
        lines = [line async for line in lines_of(stub, request())]
        later = request()
        later.since.CopyFrom(lines[6].at)
        again = [line async for line in lines_of(stub, later)]
    assert [line.line for line in again][-4:] == [b"7", b"8", b"9", b"10"]


LONG = "head -c 40000 /dev/zero | tr '\\0' x; echo; head -c 16384 /dev/zero | tr '\\0' y; echo; echo end"
LONG_LINES = [b"x" * 40000, b"y" * 16384, b"end"]


@pytest.mark.parametrize("follow", [False, True])
async def test_long_line_arrives_whole(here: ApiNode, follow: bool) -> None:
    await here.start("web", "sh", "-c", f"{LONG}; sleep 1000")
    async with here.client() as stub:
        lines = lines_of(stub, request("web", follow=True))
        seen = await until(lines, lambda seen: len(seen) == 3)
        if not follow:
            seen = [line async for line in lines_of(stub, request("web"))]
    assert [line.line for line in seen] == LONG_LINES


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 50])
async def test_tail_counts_whole_lines(here: ApiNode, count: int) -> None:
    await ended(here, "web", f"echo begin; {LONG}; head -c 40000 /dev/zero | tr '\\0' z")
    async with here.client() as stub:
        lines = [line.line async for line in lines_of(stub, request("web", lines=count))]
    assert lines == [b"begin", *LONG_LINES, b"z" * 40000][-count:]


async def test_endless_line_arrives_in_parts_of_bounded_size(here: ApiNode) -> None:
    await ended(here, "web", "head -c 700000 /dev/zero | tr '\\0' x; echo; echo end")
    async with here.client() as stub:
        lines = [line.line async for line in lines_of(stub, request("web"))]
    assert [len(line) for line in lines] == [MAX_LINE_BYTES, MAX_LINE_BYTES, 700_000 - 2 * MAX_LINE_BYTES, 3]


async def test_restarting_container_is_followed_without_gap_or_repetition(here: ApiNode) -> None:
    script = "echo begin $(cat /n 2>/dev/null); echo again >/n; sleep 1000"
    container = await here.start("web", "sh", "-c", script)
    async with here.client() as stub:
        lines = lines_of(stub, request("web", follow=True))
        await until(lines, lambda seen: len(seen) == 1)
        await asyncio.to_thread(docker, "kill", container)
        await asyncio.to_thread(docker, "start", container)
        seen = await until(lines, lambda seen: len(seen) == 1)
        assert [line.line for line in seen] == [b"begin again"]


async def test_new_container_is_followed_from_its_beginning(here: ApiNode) -> None:
    old = await here.start("web", "sh", "-c", "echo old; sleep 1000")
    async with here.client() as stub:
        lines = lines_of(stub, request("web", follow=True, lines=10))
        await until(lines, lambda seen: len(seen) == 1)
        # Not through the agent: the engine's event tells.
        new = await asyncio.to_thread(here.run, "web", "sh", "-c", "echo new; sleep 1000", release=2)
        await asyncio.to_thread(here.run, "other", "sh", "-c", "echo other; sleep 1000")
        seen = await until(lines, lambda seen: len(seen) == 1)
        assert [(line.line, line.container) for line in seen] == [(b"new", new[:12])]
        await asyncio.to_thread(docker, "exec", old, "sh", "-c", "echo more > /proc/1/fd/1")
        seen = await until(lines, lambda seen: len(seen) == 1)
        assert [(line.line, line.container) for line in seen] == [(b"more", old[:12])]


async def test_logs_pass_ten_thousand_lines_a_second(here: ApiNode) -> None:
    await ended(here, "web", "seq 1 100000")
    before = _memory()
    async with here.client() as stub:
        numbers = [int(line.line) async for line in lines_of(stub, request())]
    assert numbers == list(range(1, 100001))
    # Of which the list of numbers is some 4.
    assert _memory() - before < 64


async def test_caller_not_reading_costs_bounded_memory_and_no_thread(here: ApiNode) -> None:
    await here.start("web", "sh", "-c", "yes $(seq 1 100 | tr '\\n' ' ')")
    async with here.client() as stub:
        before = _memory()
        call = stub.Logs(request(follow=True))
        await call.read()
        reader = next(each for each in threading.enumerate() if each.name == "docker-log")
        await eventually("the reader waits", lambda: _waits(reader))
        assert _memory() - before < 32
        call.cancel()

        async def gone() -> bool:
            return not reader.is_alive()

        await eventually("its thread has ended", gone)


async def test_silent_log_call_ends_with_caller(here: ApiNode) -> None:
    await here.start("web", "sh", "-c", "echo one; sleep 1000")
    async with here.client() as stub:
        call = stub.Logs(request(follow=True))
        await call.read()
        reader = next(each for each in threading.enumerate() if each.name == "docker-log")
        call.cancel()

        async def gone() -> bool:
            return not reader.is_alive()

        await eventually("its thread has ended", gone)


async def test_unknown_services_are_refused_with_known_services(here: ApiNode) -> None:
    await ended(here, "web", "true")
    async with here.client() as stub:
        with pytest.raises(grpc.aio.AioRpcError, match=r"api.*n1.* web") as caught:
            await anext(lines_of(stub, request("api")))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def _waits(thread: threading.Thread) -> bool:
    """Return True if a thread has used no processor time for a while."""

    def used() -> str:
        stat = Path(f"/proc/self/task/{thread.native_id}/stat").read_text()
        return " ".join(stat.rpartition(")")[2].split()[11:13])

    first = used()
    for _ in range(10):
        await asyncio.sleep(0.02)
    return used() == first


def _memory() -> int:
    """Return the memory of this process in MiB: API and caller."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 // (1 << 20)
