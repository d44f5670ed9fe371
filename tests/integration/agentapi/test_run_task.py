"""Tasks run by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from devopsellence.api.v1 import workload_pb2
from devopsellence.api.v1.agent_pb2 import RunRequest
from devopsellence.nodeagent.api.run_task import discard_leftovers
from devopsellence.nodeagent.docker import names
from tests.integration.agentapi.api_node import (
    ENV,
    SHOW_KEYS,
    ApiNode,
    CommandResult,
    first_output,
    press_keys,
    read_to_end,
)
from tests.support.agent import worker
from tests.support.docker import docker
from tests.support.until import eventually

pytestmark = pytest.mark.docker


def task(*words: str, service: str = "web", interactive: bool = False, tty: bool = False, **env: str) -> RunRequest:
    request = RunRequest()
    request.start.environment = str(ENV)
    request.start.task.CopyFrom(
        workload_pb2.Task(name="Migrate", service=service, command=words, env=env),
    )
    request.start.interactive, request.start.tty = interactive, tty
    return request


@pytest.fixture
async def assigned(here: ApiNode) -> ApiNode:
    """Node with an assigned service and its network, without a running container."""
    await asyncio.to_thread(here.network)
    here.assign(worker("web", "sleep", "1000", COLOUR="red", SIZE="large"))
    return here


async def run(here: ApiNode, start: RunRequest, *more: RunRequest) -> CommandResult:
    async def requests() -> AsyncIterator[RunRequest]:
        yield start
        for each in more:
            yield each

    ran = CommandResult()
    async with here.client() as stub:
        async for answer in stub.RunTask(requests()):
            ran.add(answer)
    return ran


def left(here: ApiNode) -> list[str]:
    return docker("ps", "-aq", "--filter", f"label={names.LABEL_NODE_UID}={here.uid}").split()


async def test_task_returns_output_and_exit_code_and_leaves_nothing(assigned: ApiNode) -> None:
    ran = await run(assigned, task("sh", "-c", "echo $COLOUR $SIZE; echo no >&2; exit 3", SIZE="small"))
    assert (ran.stdout, ran.stderr, ran.exit_code) == (b"red small\n", b"no\n", 3)
    assert left(assigned) == []


async def test_task_keeps_output_of_quick_commands(assigned: ApiNode) -> None:
    for number in range(8):
        ran = await run(assigned, task("echo", str(number)))
        assert (ran.stdout, ran.exit_code) == (f"{number}\n".encode(), 0)


async def test_task_gets_input(assigned: ApiNode) -> None:
    ran = await run(assigned, task("wc", "-c", interactive=True), RunRequest(stdin=b"12345"), RunRequest(stdin=b"67"))
    assert (ran.stdout.strip(), ran.exit_code) == (b"7", 0)


async def test_task_on_terminal(assigned: ApiNode) -> None:
    start = task("stty", "size", interactive=True, tty=True)
    start.start.size.columns, start.start.size.rows = 99, 33
    assert (await run(assigned, start)).exit_code == 0
    ran = await run(assigned, task("sh", "-c", "test -t 1 && echo terminal", interactive=True, tty=True))
    assert ran.stdout == b"terminal\r\n"


async def test_task_terminal_output_arrives_after_requests_end(assigned: ApiNode) -> None:
    ran = await run(assigned, task("sh", "-c", "sleep 1; echo late", interactive=True, tty=True))
    assert (ran.stdout, ran.exit_code) == (b"late\r\n", 0)
    # And who reads from it is told that there is no more.
    ran = await run(assigned, task("cat", interactive=True, tty=True))
    assert ran.exit_code == 0


async def test_task_with_missing_command(assigned: ApiNode) -> None:
    ran = await run(assigned, task("no-such-command"))
    assert (ran.stdout, ran.exit_code) == (b"", 127)
    assert b"no-such-command" in ran.stderr
    assert left(assigned) == []


async def test_signal_reaches_task(assigned: ApiNode) -> None:
    async with assigned.client() as stub:
        call, seen = stub.RunTask(), CommandResult()
        await call.write(task("sh", "-c", "trap 'echo bye; exit 9' TERM; echo ready; while true; do sleep 0.1; done"))
        await first_output(call, seen)
        await call.write(RunRequest(signal="SIGTERM"))
        await read_to_end(call, seen)
    assert (seen.stdout, seen.exit_code) == (b"ready\nbye\n", 9)


async def test_task_ends_with_its_caller(assigned: ApiNode) -> None:
    async with assigned.client() as stub:
        call, seen = stub.RunTask(), CommandResult()
        await call.write(task("sh", "-c", "echo ready; exec sleep 1000"))
        await first_output(call, seen)
        assert len(left(assigned)) == 1
        call.cancel()

        async def gone() -> bool:
            return await asyncio.to_thread(left, assigned) == []

        await eventually("its container is gone", gone)


async def test_task_of_vanished_caller_leaves_nothing(assigned: ApiNode) -> None:
    async with assigned.client() as stub:
        for _ in range(3):
            call = stub.RunTask()
            await call.write(task("sleep", "1000"))
            call.cancel()

        # One that runs through: whatever the others had begun has been taken up before it.
        assert (await run(assigned, task("true"))).exit_code == 0

        async def gone() -> bool:
            return await asyncio.to_thread(left, assigned) == []

        await eventually("their containers are gone", gone)


async def test_leftover_task_containers_are_removed_and_nothing_else(assigned: ApiNode) -> None:
    labels = {
        **names.environment_labels("n1", assigned.uid, ENV),
        names.LABEL_TASK: "migrate",
    }
    given = [part for key, value in labels.items() for part in ("--label", f"{key}={value}")]
    one_off = ("--label", f"{names.LABEL_ONE_OFF}=true")
    prefix = names.one_off_prefix(ENV, "migrate")

    def make(*more: str, command: str) -> str:
        image = worker("x").image.pinned
        return docker("run", "-d", "--stop-timeout", "0", *given, *more, image, "sh", "-c", command)

    def make_all() -> set[str]:
        make(*one_off, "--name", f"{prefix}{'0' * 10}", command="true")
        make(*one_off, "--name", f"{prefix}{'1' * 10}", command="sleep 1000")
        # A release task, and a one-off's labels on a container of somebody else.
        return {make(command="true")[:12], make(*one_off, command="sleep 1000")[:12]}

    others = await asyncio.to_thread(make_all)
    await assigned.engine.relist()
    await discard_leftovers(assigned.engine)
    assert set(left(assigned)) == others


async def test_impossible_task_is_refused(assigned: ApiNode) -> None:
    bad = task("true")
    bad.start.task.name = "../x"
    for start, code in [
        (task("true", service="db"), grpc.StatusCode.NOT_FOUND),
        (bad, grpc.StatusCode.INVALID_ARGUMENT),
        (RunRequest(), grpc.StatusCode.INVALID_ARGUMENT),
    ]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await run(assigned, start)
        assert caught.value.code() is code
    gone = worker("web", image="sha256:" + "0" * 64)
    assigned.assign(gone)
    with pytest.raises(grpc.aio.AioRpcError, match="image of web"):
        await run(assigned, task("true"))
    gone.secret_refs.add(name="KEY", secret="KEY", version=3)
    assigned.assign(gone)
    with pytest.raises(grpc.aio.AioRpcError, match="KEY"):
        await run(assigned, task("true"))
    assert left(assigned) == []


async def test_task_terminal_passes_each_control_key_at_once(assigned: ApiNode) -> None:
    async with assigned.client() as stub:
        call = stub.RunTask()
        await call.write(task("sh", "-c", SHOW_KEYS, interactive=True, tty=True))
        await asyncio.wait_for(press_keys(call, [*range(0x20), 0x7F]), 30)
        call.cancel()
