"""IO parts of the agent by themselves: state folder, thread pool, a health check."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from devopsellence.api.v1 import stored_pb2, workload_pb2
from devopsellence.clock import Now
from devopsellence.nodeagent.docker.model import ContainerExit
from devopsellence.nodeagent.health.probe import probe_http, probe_tcp
from devopsellence.nodeagent.plan.history import NO_HISTORY, FailureCause
from devopsellence.nodeagent.state import StateError, StateFolder
from devopsellence.nodeagent.util.threads import ThreadPool
from devopsellence.store.keys import EnvironmentRef

ENV = EnvironmentRef("acme", "Shop.App", "production")
NOW = Now(100.0, 1_000_000.0)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[StateFolder]:
    with StateFolder(tmp_path) as state_folder:
        yield state_folder


def test_saved_assignments_are_restored(folder: StateFolder) -> None:
    assignment = stored_pb2.Assignment(node="n1", generation=7, services=[workload_pb2.Service(name="web")])
    folder.save_assignment(ENV, assignment)
    assert folder.assignments() == {ENV: assignment}
    folder.forget(ENV)
    assert folder.assignments() == {}


def test_unreadable_files_are_kept_and_the_rest_is_read(folder: StateFolder, tmp_path: Path) -> None:
    folder.save_assignment(ENV, stored_pb2.Assignment(node="n1"))
    (tmp_path / "assignments" / "acme+other+production.json").write_text("{half")
    (tmp_path / "assignments" / "what.json").write_text("{}")
    assert list(folder.assignments()) == [ENV]
    assert len(list((tmp_path / "assignments").iterdir())) == 3


def test_state_folder_is_private(tmp_path: Path) -> None:
    with StateFolder(tmp_path / "state") as folder:
        folder.save_assignment(ENV, stored_pb2.Assignment())
    (file,) = (tmp_path / "state" / "assignments").iterdir()
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0
    assert file.stat().st_mode & 0o077 == 0


def test_restart_histories_are_restored_with_remaining_backoff(folder: StateFolder) -> None:
    end = ContainerExit(3, False, "2026-01-01T00:00:00Z", 0.5, ("one", "two"))
    memory = replace(
        NO_HISTORY, starts=4, crashes=3, failure=FailureCause.CRASHED, retry=130.0, retry_wall=1_000_030.0, last_end=end
    )
    folder.save_restart_histories(ENV, {("web", "hash"): memory})
    # After a reboot the monotonic clock is another one, and twenty seconds have passed.
    read = folder.restart_histories(ENV, Now(5.0, 1_000_020.0))
    assert read == {("web", "hash"): replace(memory, retry=15.0)}
    # A wall clock that was set back does not make a wait longer than the longest.
    assert folder.restart_histories(ENV, Now(5.0, 0.0))[("web", "hash")].retry <= 5.0 + 330.0


@pytest.mark.parametrize(
    "content", ["", "{", "[1]", '[{"service": "a"}]', '[{"service": "a", "hash": "b", "memory": {"trouble": "x"}}]']
)
def test_unreadable_restart_histories_are_ignored(folder: StateFolder, tmp_path: Path, content: str) -> None:
    (tmp_path / "memory" / "acme+Shop.App+production.json").write_text(content)
    assert folder.restart_histories(ENV, NOW) == {}


def test_second_agent_cannot_use_the_folder(tmp_path: Path) -> None:
    with StateFolder(tmp_path), pytest.raises(StateError, match="another agent already runs"):
        StateFolder(tmp_path)
    StateFolder(tmp_path).close()


def test_uncreatable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="--state-dir"):
        StateFolder(tmp_path / "file" / "state")


async def test_thread_pool_is_bounded_and_delivers_results_and_errors() -> None:
    pool = ThreadPool(2, "test")
    gate, inside = threading.Semaphore(0), []

    def wait() -> int:
        inside.append(threading.current_thread().name)
        gate.acquire()
        return 1

    tasks = [asyncio.create_task(pool.run(wait)) for _ in range(4)]
    async with asyncio.timeout(5):
        await asyncio.sleep(0.05)
        assert len(inside) == 2
        gate.release(4)
        assert await asyncio.gather(*tasks) == [1] * 4
        with pytest.raises(ZeroDivisionError):
            await pool.run(lambda: 1 // 0)


async def test_call_without_waiter_still_ends() -> None:
    pool = ThreadPool(1, "test")
    gate, ended = threading.Event(), threading.Event()

    def call() -> None:
        gate.wait()
        ended.set()

    task = asyncio.create_task(pool.run(call))
    await asyncio.sleep(0.01)
    task.cancel()
    gate.set()
    assert await pool.run(lambda: ended.wait(5))


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(answer: bytes | None) -> AsyncIterator[int]:
    """Run a server with the fixed answer ``answer``; None: without an answer."""
    silence = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if answer is None:
            await silence.wait()
        else:
            writer.write(answer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        silence.set()
        server.close()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", ""),
        (b"HTTP/1.0 204 No Content\r\n\r\n", ""),
        (b"HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n", ""),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "answered 404"),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "answered 503"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "is not HTTP"),
        (b"", "is not HTTP"),
        (b"x" * 10000, "GET"),
        (None, "no answer within 0.1 s"),
    ],
)
async def test_probe_reports_success_and_failure(answer: bytes | None, says: str) -> None:
    async with serving(answer) as port:
        message = await probe_http("127.0.0.1", port, "/up", 0.1)
    assert bool(message) == bool(says)
    assert says in message


async def test_probe_without_listener_fails() -> None:
    async with serving(b"") as port:
        pass
    hint = "connection refused (a program that listens on 127.0.0.1 only is not reachable: use 0.0.0.0)"
    assert await probe_http("127.0.0.1", port, "/up", 1.0) == f"GET http://127.0.0.1:{port}/up: {hint}"
    assert await probe_tcp("127.0.0.1", port, 1.0) == f"tcp 127.0.0.1:{port}: {hint}"


async def test_tcp_probe_passes_on_accepted_connection() -> None:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        assert await probe_tcp("127.0.0.1", server.sockets[0].getsockname()[1], 20.0) == ""
