"""A command in a container, as if it were here: its output, our input, the window's size, signals, its exit code."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import grpc
import grpc.aio

from devopsellence.api.v1.agent_pb2 import RunAnswer, RunRequest, RunStart
from devopsellence.cli.agent import stdio, terminal
from devopsellence.cli.agent.client import AgentEndpoint, call_error, wait_connected
from devopsellence.cli.output import CliError

if TYPE_CHECKING:
    Call = grpc.aio.StreamStreamCall[RunRequest, RunAnswer]

Sink = Callable[[bytes], Awaitable[None]]
#: What the shell says of a command that Ctrl-C ended: 128 and SIGINT's number.
INTERRUPTED: Final = 130


@dataclass(frozen=True)
class LocalStreams:
    """This side: where output goes, and the descriptor that input comes from (None: there is none).

    ``window`` is the descriptor of the terminal whose size the other side follows; None without one.
    """

    stdout: Sink
    stderr: Sink
    stdin: int | None = None
    window: int | None = None


class Session:
    """One command on one node."""

    def __init__(self, agent: AgentEndpoint, call: Call, here: LocalStreams) -> None:
        self._agent = agent
        self._call = call
        self._here = here
        # Requests go one after the other: a call takes no second one while it takes one.
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, start: RunStart) -> int:
        """The command's exit code.

        Raises:
            CliError: the agent cannot be asked, refuses, or is lost.
        """
        try:
            await wait_connected(self._agent, self._call)
            await self._call.write(RunRequest(start=start))
            if self._here.stdin is not None:
                self._spawn(self._send_input(self._here.stdin))
            return await self._answers()
        except grpc.aio.AioRpcError as error:
            raise call_error(self._agent, error) from error
        finally:
            # The agent ends what still runs when the call is cancelled.
            self._call.cancel()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def signal(self, name: str) -> None:
        """Pass a signal on, such as "SIGINT"."""
        self._spawn(self._send(RunRequest(signal=name)))

    def resize(self) -> None:
        """Tell the other side how large the terminal is now."""
        size = terminal.size(self._here.window) if self._here.window is not None else None
        if size is not None:
            self._spawn(self._send(RunRequest(resize=size)))

    async def _answers(self) -> int:
        while isinstance(answer := await self._call.read(), RunAnswer):
            match answer.WhichOneof("kind"):
                case "stdout":
                    await self._here.stdout(answer.stdout)
                case "stderr":
                    await self._here.stderr(answer.stderr)
                case "exit_code":
                    return int(answer.exit_code)
        raise CliError("agent_failed", f"node {self._agent.node}: its agent did not say how the command ended")

    async def _send_input(self, descriptor: int) -> None:
        async for chunk in stdio.chunks(descriptor):
            await self._send(RunRequest(stdin=chunk))
        await self._send(RunRequest(close_stdin=True))

    async def _send(self, request: RunRequest) -> None:
        # A call that has ended takes nothing; why it did is known to whoever reads its answers.
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            async with self._turn:
                await self._call.write(request)

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
