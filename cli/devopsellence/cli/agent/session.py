"""Session of a remote command: output, stdin, window size, signals and exit code over a bidirectional stream."""

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
#: Exit code of a command ended by Ctrl-C: 128 plus the number of SIGINT.
INTERRUPTED: Final = 130


@dataclass(frozen=True)
class LocalStreams:
    """Local side of a session: writers for output, and the file descriptor of stdin (None: no input).

    ``window`` is the file descriptor of the terminal with the window size to pass on; None without a terminal.
    """

    stdout: Sink
    stderr: Sink
    stdin: int | None = None
    window: int | None = None


class Session:
    """Running command on a node."""

    def __init__(self, agent: AgentEndpoint, call: Call, streams: LocalStreams) -> None:
        self._agent = agent
        self._call = call
        self._streams = streams
        # gRPC allows only one write at a time.
        self._write_lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, start: RunStart) -> int:
        """Run the command and return its exit code.

        Raises:
            CliError: the agent cannot be reached, refuses, or is lost.
        """
        try:
            await wait_connected(self._agent, self._call)
            await self._call.write(RunRequest(start=start))
            if self._streams.stdin is not None:
                self._spawn(self._send_input(self._streams.stdin))
            return await self._answers()
        except grpc.aio.AioRpcError as error:
            raise call_error(self._agent, error) from error
        finally:
            # The agent terminates the command when the call is cancelled.
            self._call.cancel()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def signal(self, name: str) -> None:
        """Send a signal to the command, such as "SIGINT"."""
        self._spawn(self._send(RunRequest(signal=name)))

    def resize(self) -> None:
        """Send the current size of the terminal."""
        size = terminal.size(self._streams.window) if self._streams.window is not None else None
        if size is not None:
            self._spawn(self._send(RunRequest(resize=size)))

    async def _answers(self) -> int:
        while isinstance(answer := await self._call.read(), RunAnswer):
            match answer.WhichOneof("kind"):
                case "stdout":
                    await self._streams.stdout(answer.stdout)
                case "stderr":
                    await self._streams.stderr(answer.stderr)
                case "exit_code":
                    return int(answer.exit_code)
        raise CliError(
            "agent_failed", f"node {self._agent.node}: the agent did not report the exit code of the command"
        )

    async def _send_input(self, descriptor: int) -> None:
        async for chunk in stdio.chunks(descriptor):
            await self._send(RunRequest(stdin=chunk))
        await self._send(RunRequest(close_stdin=True))

    async def _send(self, request: RunRequest) -> None:
        # An ended call accepts no requests; its error is raised to the reader of the answers.
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            async with self._write_lock:
                await self._call.write(request)

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
