"""A conversation with a process: its output to the caller, the caller's input, window sizes and signals to it.

Nothing is held but what is on its way: output is read no faster than the caller takes it, input is taken no faster than
the process reads it. Signals come in the order of the input, so behind input that the process does not read they wait.
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
from devopsellence.nodeagent.docker import process as processes
from devopsellence.nodeagent.docker.pipe import ProcessPipe

Requests = AsyncIterator[RunRequest]
Answer = Callable[[RunAnswer], Awaitable[None]]

#: Pieces of input that wait for the process.
_PIECES: Final = 4
_MAX_SIZE: Final = 65535
_Code = grpc.StatusCode


class AttachedProcess(Protocol):
    """What a conversation is with. ``container`` is its id."""

    @property
    def container(self) -> str: ...

    async def started(self) -> bool:
        """Whether it has begun at all; if not, what comes out of the pipe are the engine's words about why."""

    async def resize(self, size: WindowSize) -> None:
        """Tell its terminal how large the window is."""

    async def signal(self, name: str) -> None:
        """Send it a signal. Refusal if it cannot be reached."""


async def first_request(requests: Requests, kind: str) -> RunStart:
    """The first request, which says what to run: ``kind`` is ``command`` or ``task``.

    Raises:
        Refusal: INVALID_ARGUMENT.
    """
    first = await anext(requests, None)
    if first is None or first.WhichOneof("kind") != "start":
        raise CallRefused(_Code.INVALID_ARGUMENT, "the first request must be the start")
    if first.start.WhichOneof("what") != kind:
        raise CallRefused(_Code.INVALID_ARGUMENT, f"the start must hold a {kind}")
    return first.start


def check_size(size: WindowSize) -> WindowSize:
    """Refusal (INVALID_ARGUMENT) unless a terminal can have this size."""
    if not (0 < size.columns <= _MAX_SIZE and 0 < size.rows <= _MAX_SIZE):
        sentence = f"no terminal has {size.columns} columns and {size.rows} rows"
        raise CallRefused(_Code.INVALID_ARGUMENT, sentence)
    return size


async def converse(
    process: AttachedProcess, pipe: ProcessPipe, start: RunStart, requests: Requests, answer: Answer
) -> None:
    """Pass everything on, both ways, until there is no more output.

    Raises:
        Refusal: the caller asks for something that cannot be done.
    """
    pieces: asyncio.Queue[bytes | None] = asyncio.Queue(_PIECES)
    try:
        async with asyncio.TaskGroup() as group:
            listening = group.create_task(_listen(process, start, requests, pieces))
            feeding = group.create_task(_feed(pipe, pieces))
            await answer(RunAnswer(started=RunStarted(container=process.container[:12])))
            await _pass_on(process, pipe, answer)
            listening.cancel()
            feeding.cancel()
    except BaseExceptionGroup as several:
        # They are of one cause; cancelling is not among them.
        raise several.exceptions[0] from several


async def _pass_on(process: AttachedProcess, pipe: ProcessPipe, answer: Answer) -> None:
    begun: bool | None = None
    async for stderr, data in pipe.output():
        if begun is None:
            begun = await process.started()
        await answer(RunAnswer(stderr=data) if stderr or not begun else RunAnswer(stdout=data))


async def _listen(
    process: AttachedProcess, start: RunStart, requests: Requests, pieces: asyncio.Queue[bytes | None]
) -> None:
    """Take up the caller's requests. The end of the requests is the end of the input."""
    if start.tty and start.HasField("size"):
        await process.resize(check_size(start.size))
    open_input = True
    async for request in requests:
        match request.WhichOneof("kind"):
            case "stdin":
                if not open_input or not start.interactive:
                    raise CallRefused(_Code.INVALID_ARGUMENT, "there is no stdin (any more) for this to go to")
                if len(request.stdin) > CHUNK_BYTES:
                    raise CallRefused(
                        _Code.INVALID_ARGUMENT, f"at most {CHUNK_BYTES} bytes of stdin go into one message"
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
                raise CallRefused(_Code.INVALID_ARGUMENT, "this agent does not understand the request")
    if open_input:
        await pieces.put(None)


async def _feed(pipe: ProcessPipe, pieces: asyncio.Queue[bytes | None]) -> None:
    """Give the process its input. Once it takes no more the rest is dropped, as a closed pipe would."""
    takes = True
    while (piece := await pieces.get()) is not None:
        takes = takes and await pipe.write(piece)
    await pipe.end_input()


def signal_named(name: str) -> Signals:
    """Refusal (INVALID_ARGUMENT) if there is no such signal."""
    found = processes.signal_number(name)
    if found is None:
        raise CallRefused(_Code.INVALID_ARGUMENT, f"there is no signal {name!r}")
    return found
