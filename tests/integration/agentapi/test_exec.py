"""Commands in running containers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from devopsellence.api.v1.agent_pb2 import RunRequest, WindowSize
from tests.integration.agentapi.api_node import (
    SHOW_KEYS,
    ApiNode,
    CommandResult,
    command,
    execute,
    first_output,
    next_answer,
    press_keys,
    read_to_end,
    until_output,
)
from tests.support.docker import docker
from tests.support.until import eventually

pytestmark = pytest.mark.docker
SECONDS = 30


async def test_exec_separates_stdout_stderr_and_exit_code(here: ApiNode) -> None:
    container = await here.start("web", "sleep", "1000")
    async with here.client() as stub:
        ran = await execute(stub, command("web", "sh", "-c", "echo out; echo err >&2; exit 255"))
    assert ran == CommandResult(b"out\n", b"err\n", 255, container[:12])


async def test_exec_keeps_output_of_quick_commands(here: ApiNode) -> None:
    await here.start("web", "sleep", "1000")
    async with here.client() as stub:
        for number in range(30):
            ran = await execute(stub, command("web", "echo", str(number)))
            assert (ran.stdout, ran.exit_code) == (f"{number}\n".encode(), 0)


async def test_exec_passes_input_of_any_size(here: ApiNode) -> None:
    await here.start("web", "sleep", "1000")
    pieces = [bytes([number]) * 200_000 for number in range(40)]
    async with here.client() as stub:
        more = [*(RunRequest(stdin=piece) for piece in pieces), RunRequest(close_stdin=True)]
        ran = await execute(stub, command("web", "cat", interactive=True), more)
    assert ran.stdout == b"".join(pieces)
    assert ran.exit_code == 0


async def test_exec_of_missing_command_fails_on_stderr(here: ApiNode) -> None:
    await here.start("web", "sleep", "1000")
    async with here.client() as stub:
        ran = await execute(stub, command("web", "no-such-command"))
    assert ran.stdout == b""
    assert b"no-such-command" in ran.stderr
    assert ran.exit_code in (126, 127)


async def test_exec_terminal_has_size_of_window(here: ApiNode) -> None:
    await here.start("web", "sleep", "1000")
    start = command("web", "sh", "-c", "read a; stty size; read b; stty size", interactive=True, tty=True)
    start.start.size.columns, start.start.size.rows = 99, 33
    async with here.client() as stub:
        call = stub.Exec()
        await call.write(start)
        await call.write(RunRequest(stdin=b"\n"))
        seen = CommandResult()

        async def until(text: bytes) -> bool:
            while text not in seen.stdout:
                seen.add(await next_answer(call))
            return True

        await asyncio.wait_for(until(b"33 99"), SECONDS)
        await call.write(RunRequest(resize=WindowSize(columns=120, rows=40)))
        await call.write(RunRequest(stdin=b"\n"))
        await asyncio.wait_for(until(b"40 120"), SECONDS)
        await read_to_end(call, seen)
    assert seen.exit_code == 0


async def test_exec_terminal_passes_each_control_key_at_once(here: ApiNode) -> None:
    await here.start("web", "sleep", "1000")
    # Ctrl-^ begins the detach keys, of which the engine must have some: it arrives with the next key.
    keys = [key for key in [*range(0x20), 0x7F] if key != 0x1E]
    async with here.client() as stub:
        call = stub.Exec()
        await call.write(command("web", "sh", "-c", SHOW_KEYS, interactive=True, tty=True))
        await asyncio.wait_for(press_keys(call, keys), SECONDS)
        await call.write(RunRequest(stdin=b"\x1e"))
        await call.write(RunRequest(stdin=b"a"))
        await asyncio.wait_for(until_output(call, "1e", "61"), SECONDS)
        call.cancel()


@pytest.mark.parametrize(("signal", "code"), [("SIGINT", 130), ("TERM", 143), ("SIGKILL", 137)])
async def test_signals_reach_exec_process(here: ApiNode, signal: str, code: int) -> None:
    await here.start("web", "sleep", "1000")
    async with here.client() as stub:
        call = stub.Exec()
        await call.write(command("web", "sh", "-c", "echo ready; exec sleep 1000"))
        seen = CommandResult()
        await first_output(call, seen)
        await call.write(RunRequest(signal=signal))
        await read_to_end(call, seen)
    assert seen.exit_code == code


async def test_exec_process_ends_with_caller_even_if_it_ignores_sighup(here: ApiNode) -> None:
    container = await here.start("web", "sleep", "1000")
    async with here.client() as stub:
        call = stub.Exec()
        await call.write(command("web", "sh", "-c", "trap '' HUP; echo ready; while true; do sleep 77; done"))
        seen = CommandResult()
        await first_output(call, seen)
        assert "sleep 77" in docker("top", container)
        call.cancel()

        async def gone() -> bool:
            return "sleep 77" not in await asyncio.to_thread(docker, "top", container)

        await eventually("the command has ended", gone)
    assert docker("inspect", "-f", "{{.State.Running}}", container) == "true"


async def test_unread_output_blocks_command_in_bounded_memory(here: ApiNode) -> None:
    container = await here.start("web", "sleep", "1000")
    async with here.client() as stub:
        call = stub.Exec()
        await call.write(command("web", "yes"))
        seen = CommandResult()
        await first_output(call, seen)
        before = _memory()
        await _still(container)
        assert _memory() - before < 32
        call.cancel()

        async def gone() -> bool:
            return "yes" not in await asyncio.to_thread(docker, "top", container)

        await eventually("the command has ended", gone)


async def test_unknown_service_is_refused_with_the_running_ones(here: ApiNode) -> None:
    container = await here.start("web", "true")
    await asyncio.to_thread(docker, "wait", container)
    await here.engine.refresh(container)
    elsewhere = command("web", "true")
    elsewhere.start.environment = "acme/shop/staging"
    cases = [
        (
            command("web", "true"),
            grpc.StatusCode.FAILED_PRECONDITION,
            "no container of web is running on node n1 (exited)",
        ),
        (command("db", "true"), grpc.StatusCode.NOT_FOUND, "no service 'db' on node n1; services here: web"),
        (
            elsewhere,
            grpc.StatusCode.NOT_FOUND,
            "acme/shop/staging is not on node n1; environments here: acme/shop/produc",
        ),
        (command("web"), grpc.StatusCode.INVALID_ARGUMENT, "a command must have"),
        (RunRequest(stdin=b"x"), grpc.StatusCode.INVALID_ARGUMENT, "the first request must be the start"),
    ]
    async with here.client() as stub:
        for start, code, words in cases:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await execute(stub, start)
            assert caught.value.code() is code
            assert words in str(caught.value.details())
            assert ("devopsellence-refused-by", "n1") in list(caught.value.trailing_metadata() or ())


async def test_exec_leaves_no_descriptor(here: ApiNode) -> None:
    await here.start("web", "sleep", "1000")
    async with here.client() as stub:
        # By then every thread that asks the engine has its connection.
        for _ in range(20):
            await execute(stub, command("web", "true"))
        before = _descriptors()
        for _ in range(20):
            await execute(stub, command("web", "true"))
        assert _descriptors() < before + 10


async def _still(container: str) -> None:
    """Wait until the command in the container uses no more processor time: its output is not read."""

    async def look() -> bool:
        first = await asyncio.to_thread(docker, "exec", container, "sh", "-c", "cat /proc/[0-9]*/stat")
        second = await asyncio.to_thread(docker, "exec", container, "sh", "-c", "cat /proc/[0-9]*/stat")
        return _time_of(first) == _time_of(second)

    await eventually("the command waits", look)


def _time_of(stats: str) -> list[str]:
    return [" ".join(line.split()[13:15]) for line in stats.splitlines() if "(yes)" in line]


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _memory() -> int:
    """Return the memory of this process in MiB: API and caller."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 // (1 << 20)
