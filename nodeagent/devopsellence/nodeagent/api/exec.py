"""A command in a running container: the engine runs it, and tells its exit code and its process's number."""

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

#: A terminal is there a moment after the command was started.
_RESIZE_ATTEMPTS: Final = 6
#: The engine notes the number of a process it has started, a moment later.
_PID_SECONDS: Final = 5.0
_log = structlog.get_logger()


class ContainerExec:
    """One command. ``run`` it; ``abandon`` it if that was cut short."""

    def __init__(self, engine: DockerEngine, container: str) -> None:
        self.container = container
        self._engine = engine
        self._id = ""
        self._starting: asyncio.Future[streams.HijackedConnection] | None = None
        self._ended = False

    async def run(self, start: RunStart, requests: Requests, answer: Answer) -> None:
        """Run it to its end and answer with its exit code."""
        command, tty = start.command.command, start.tty
        try:
            self._id = await self._engine.ask(
                lambda docker: streams.create_exec(docker, self.container, command, stdin=start.interactive, tty=tty)
            )
            self._starting = asyncio.ensure_future(
                self._engine.ask(lambda docker: streams.start_exec(docker, self._id, tty=tty))
            )
            # Whoever cancels this does not learn whether it was started; abandoning it waits until that is known.
            connection = await asyncio.shield(self._starting)
        except (errors.NotFound, errors.Conflict) as error:
            raise CallRefused(grpc.StatusCode.FAILED_PRECONDITION, f"the container does not run: {error}") from error
        pipe = ProcessPipe(connection, tty=tty)
        try:
            await converse(self, pipe, start, requests, answer)
            code = await self._exit_code()
        finally:
            pipe.close()
        self._ended = True
        await answer(RunAnswer(exit_code=code))

    async def abandon(self) -> None:
        """End its process, unless it has ended."""
        if self._starting is None or self._ended:
            return
        try:
            (await self._starting).socket.close()
            seen = await self._process()
            if seen.running and not await process.hang_up(seen.pid, self.container):
                _log.warning("a command that nobody waits for cannot be ended from here", container=self.container)
        except errors.EngineError as error:
            _log.warning("a command that nobody waits for cannot be ended", error=str(error))

    async def started(self) -> bool:
        """The engine writes into the output why it could not begin a command, and knows no process then."""
        seen = await self._look()
        return seen.running or seen.pid > 0

    async def resize(self, size: WindowSize) -> None:
        """Tell its terminal; a terminal that is not there (any more) needs no telling."""
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(errors.EngineError),
            stop=stop_after_attempt(_RESIZE_ATTEMPTS),
            wait=wait_exponential(multiplier=0.01, max=0.5),
            retry_error_callback=lambda _state: None,
        )
        await retrying(self._engine.ask, lambda docker: streams.resize_exec(docker, self._id, size.columns, size.rows))

    async def signal(self, name: str) -> None:
        """Send it a signal. Refusal if its process cannot be reached from here."""
        wanted = signal_named(name)
        seen = await self._process()
        if seen.running and not process.send_signal(seen.pid, self.container, wanted):
            sentence = "the command cannot be signalled: its process cannot be reached from the agent's; use -t"
            raise CallRefused(grpc.StatusCode.FAILED_PRECONDITION, sentence)

    async def _exit_code(self) -> int:
        """Its exit code. Its output has ended, which is its end but for commands that close it before they end."""
        retrying = AsyncRetrying(
            retry=retry_if_result(lambda seen: seen.running), wait=wait_random_exponential(multiplier=0.01, max=1.0)
        )
        seen: streams.ExecState = await retrying(self._look)
        return seen.exit_code

    async def _process(self) -> streams.ExecState:
        """How it stands, with its process's number if it runs: what it prints may be here before the engine has noted
        that."""
        retrying = AsyncRetrying(
            retry=retry_if_result(lambda seen: seen.running and not seen.pid),
            stop=stop_after_delay(_PID_SECONDS),
            wait=wait_exponential(multiplier=0.01, max=0.2),
            retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
        )
        seen: streams.ExecState = await retrying(self._look)
        return seen

    async def _look(self) -> streams.ExecState:
        return await self._engine.ask(lambda docker: streams.inspect_exec(docker, self._id))
