"""Session with a process: output to the caller; input, terminal sizes and signals to the process.

Memory is bounded: output is read no faster than the caller takes it, and input is taken no faster than the process
reads it. Signals keep their order within the input, so they wait behind input not read by the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from signal import Signals
from typing import Final, Protocol

import grpc

from devopsellence.agent_identity import CHUNK_BYTES
from devopsellence.api.v1.agent_pb2 import RunAnswer, RunRequest, RunStart, RunStarted, WindowSize
from devopsellence.nodeagent.api.auth import CallRefused
from devopsellence.nodeagent.docker.pipe import ProcessPipe
from devopsellence.nodeagent.docker.process import signal_number

Requests = AsyncIterator[RunRequest]
Answer = Callable[[RunAnswer], Awaitable[None]]

#: Buffered pieces of input.
_MAX_PIECES: Final = 4
_MAX_SIZE: Final = 65535
_Code = grpc.StatusCode


class AttachedProcess(Protocol):
    """Process of a session. ``container``: its id."""

    @property
    def container(self) -> str: ...

    async def started(self) -> bool:
        """Return False if the start failed: the output is then the engine's message with the reason."""

    async def resize(self, size: WindowSize) -> None:
        """Resize the terminal."""

    async def signal(self, name: str) -> None:
        """Send a signal. CallRefused if the process is not reachable."""


async def first_request(requests: Requests, kind: str) -> RunStart:
    """Return the first request, which must start a ``command`` or ``task``, as given by ``kind``.

    Raises:
        CallRefused: INVALID_ARGUMENT.
    """
    first = await anext(requests, None)
    if first is None or first.WhichOneof("kind") != "start":
        raise CallRefused(_Code.INVALID_ARGUMENT, "the first request must be the start")
    if first.start.WhichOneof("what") != kind:
        raise CallRefused(_Code.INVALID_ARGUMENT, f"the start must contain a {kind}")
    return first.start


def check_size(size: WindowSize) -> WindowSize:
    """Return the size if valid for a terminal. CallRefused (INVALID_ARGUMENT) otherwise."""
    if not (0 < size.columns <= _MAX_SIZE and 0 < size.rows <= _MAX_SIZE):
        message = f"invalid terminal size: {size.columns} columns, {size.rows} rows"
        raise CallRefused(_Code.INVALID_ARGUMENT, message)
    return size


async def converse(
    process: AttachedProcess, pipe: ProcessPipe, start: RunStart, requests: Requests, answer: Answer
) -> None:
    """Forward data in both directions until the end of the output.

    Raises:
        CallRefused: a request is invalid or impossible.
    """
    pieces: asyncio.Queue[bytes | None] = asyncio.Queue(_MAX_PIECES)
    try:
        async with asyncio.TaskGroup() as group:
            receiver = group.create_task(_receive(process, start, requests, pieces))
            feeder = group.create_task(_feed(pipe, pieces))
            await answer(RunAnswer(started=RunStarted(container=process.container[:12])))
            await _send_output(process, pipe, answer)
            receiver.cancel()
            feeder.cancel()
    except BaseExceptionGroup as errors:
        # All errors have the same cause; cancellations are not included.
        raise errors.exceptions[0] from errors


async def _send_output(process: AttachedProcess, pipe: ProcessPipe, answer: Answer) -> None:
    started: bool | None = None
    async for stderr, data in pipe.output():
        if started is None:
            started = await process.started()
        await answer(RunAnswer(stderr=data) if stderr or not started else RunAnswer(stdout=data))


async def _receive(
    process: AttachedProcess, start: RunStart, requests: Requests, pieces: asyncio.Queue[bytes | None]
) -> None:
    """Handle the caller's requests. The end of the requests closes stdin."""
    if start.tty and start.HasField("size"):
        await process.resize(check_size(start.size))
    open_input = True
    async for request in requests:
        match request.WhichOneof("kind"):
            case "stdin":
                if not open_input or not start.interactive:
                    raise CallRefused(_Code.INVALID_ARGUMENT, "stdin is closed, or was not requested")
                if len(request.stdin) > CHUNK_BYTES:
                    raise CallRefused(
                        _Code.INVALID_ARGUMENT, f"a message may hold at most {CHUNK_BYTES} bytes of stdin"
                    )
                await pieces.put(request.stdin)
            case "close_stdin":
                open_input = False
                await pieces.put(None)
            case "resize":
                await process.resize(check_size(request.resize))
            case "signal":
                await process.signal(request.signal)
            case _:
                raise CallRefused(_Code.INVALID_ARGUMENT, "unknown request: the agent may be older than the caller")
    if open_input:
        await pieces.put(None)


async def _feed(pipe: ProcessPipe, pieces: asyncio.Queue[bytes | None]) -> None:
    """Write input to the process. After the process has closed its stdin the rest is dropped, as by a closed pipe."""
    is_open = True
    while (piece := await pieces.get()) is not None:
        is_open = is_open and await pipe.write(piece)
    await pipe.end_input()


def signal_named(name: str) -> Signals:
    """Return the signal of a name. CallRefused (INVALID_ARGUMENT) if unknown."""
    number = signal_number(name)
    if number is None:
        raise CallRefused(_Code.INVALID_ARGUMENT, f"unknown signal {name!r}")
    return number
