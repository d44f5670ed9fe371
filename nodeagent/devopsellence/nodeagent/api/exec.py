"""Exec of a command in a running container, with exit code, signals and terminal size."""

from __future__ import annotations

import asyncio
from typing import Final

import grpc
import structlog
from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    retry_if_result,
    stop_after_attempt,
    stop_after_delay,
    wait_exponential,
    wait_random_exponential,
)

from devopsellence.api.v1.agent_pb2 import RunAnswer, RunStart, WindowSize
from devopsellence.nodeagent.api.auth import CallRefused
from devopsellence.nodeagent.api.session import Answer, Requests, converse, signal_named
from devopsellence.nodeagent.docker import errors, process, streams
from devopsellence.nodeagent.docker.engine import DockerEngine
from devopsellence.nodeagent.docker.pipe import ProcessPipe

#: Resizing fails until the engine has set up the terminal, a moment after the start.
_RESIZE_ATTEMPTS: Final = 6
#: Longest wait for the pid, which the engine records a moment after the start.
_PID_SECONDS: Final = 5.0
_log = structlog.get_logger()


class ContainerExec:
    """A single exec. Call :meth:`run`, then :meth:`abandon` in case ``run`` was cut short."""

    def __init__(self, engine: DockerEngine, container: str) -> None:
        self.container = container
        self._engine = engine
        self._id = ""
        self._starting: asyncio.Future[streams.HijackedConnection] | None = None
        self._ended = False

    async def run(self, start: RunStart, requests: Requests, answer: Answer) -> None:
        """Run the command to its end and answer with its exit code."""
        command, tty = start.command.command, start.tty
        try:
            self._id = await self._engine.ask(
                lambda docker: streams.create_exec(docker, self.container, command, stdin=start.interactive, tty=tty),
                about=self.container,
            )
            self._starting = asyncio.ensure_future(
                self._engine.ask(lambda docker: streams.start_exec(docker, self._id, tty=tty), about=self.container)
            )
            # A cancellation leaves the start undecided; abandon() waits for the outcome.
            connection = await asyncio.shield(self._starting)
        except (errors.NotFound, errors.Conflict) as error:
            raise CallRefused(grpc.StatusCode.FAILED_PRECONDITION, f"the container is not running: {error}") from error
        pipe = ProcessPipe(connection, tty=tty)
        try:
            await converse(self, pipe, start, requests, answer)
            code = await self._exit_code()
        finally:
            pipe.close()
        self._ended = True
        await answer(RunAnswer(exit_code=code))

    async def abandon(self) -> None:
        """Kill the process, unless ended."""
        if self._starting is None or self._ended:
            return
        try:
            (await self._starting).socket.close()
            state = await self._process()
            if state.running and not await process.hang_up(state.pid, self.container):
                _log.warning(
                    "cannot kill an abandoned command: its process is not visible here", container=self.container
                )
        except errors.EngineError as error:
            _log.warning("cannot kill an abandoned command", error=str(error))

    async def started(self) -> bool:
        """Return False for a failed start: the engine then writes the reason to the output, and has no pid."""
        state = await self._inspect()
        return state.running or state.pid > 0

    async def resize(self, size: WindowSize) -> None:
        """Resize the terminal; a missing terminal is ignored."""
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(errors.EngineError),
            stop=stop_after_attempt(_RESIZE_ATTEMPTS),
            wait=wait_exponential(multiplier=0.01, max=0.5),
            retry_error_callback=lambda _state: None,
        )
        await retrying(self._engine.ask, lambda docker: streams.resize_exec(docker, self._id, size.columns, size.rows))

    async def signal(self, name: str) -> None:
        """Send a signal. CallRefused if the process is not visible here."""
        number = signal_named(name)
        state = await self._process()
        if state.running and not process.send_signal(state.pid, self.container, number):
            message = "cannot send the signal: the agent cannot see the command's process; use -t"
            raise CallRefused(grpc.StatusCode.FAILED_PRECONDITION, message)

    async def _exit_code(self) -> int:
        """Wait for the exit code. The output usually ends with the command, but a command may close its output
        earlier."""
        retrying = AsyncRetrying(
            retry=retry_if_result(lambda exec_state: exec_state.running),
            wait=wait_random_exponential(multiplier=0.01, max=1.0),
        )
        state: streams.ExecState = await retrying(self._inspect)
        return state.exit_code

    async def _process(self) -> streams.ExecState:
        """Return the state, with the pid if running: output may arrive before the engine has recorded the pid."""
        retrying = AsyncRetrying(
            retry=retry_if_result(lambda exec_state: exec_state.running and not exec_state.pid),
            stop=stop_after_delay(_PID_SECONDS),
            wait=wait_exponential(multiplier=0.01, max=0.2),
            retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
        )
        state: streams.ExecState = await retrying(self._inspect)
        return state

    async def _inspect(self) -> streams.ExecState:
        return await self._engine.ask(lambda docker: streams.inspect_exec(docker, self._id), about=self.container)
