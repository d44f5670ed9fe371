"""Log stream of one node, resumed after a broken connection without losing or repeating a line."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import grpc
import grpc.aio
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from devopsellence.api.v1.agent_pb2 import LogsAnswer, LogsRequest
from devopsellence.cli.agent.client import AgentEndpoint, call_error, wait_connected
from devopsellence.cli.agent.log_line import NANOS, OutputLine, from_message, timestamp
from devopsellence.cli.output import CliError

if TYPE_CHECKING:
    from devopsellence.api.v1.agent_pb2_grpc import AgentAsyncStub

    Call = grpc.aio.UnaryStreamCall[LogsRequest, LogsAnswer]

# Maximum overlap when resuming, in nanoseconds, for containers with fewer lines than others.
_MARGIN: Final = 30 * NANOS


@dataclass(slots=True)
class _ContainerPosition:
    """Last time of a container's lines, and the lines of that time."""

    at: int = -1
    then: Counter[tuple[bool, bytes]] = field(default_factory=Counter)
    # Lines of ``then`` still to be skipped after resuming.
    again: Counter[tuple[bool, bytes]] = field(default_factory=Counter)


class ResumePoint:
    """Position in a log stream, by container, for resuming without repeated lines. Pure.

    The lines of a container arrive in order, those of different containers only roughly: after a break, the stream is
    requested again from :attr:`since`, and :meth:`admit` rejects lines received before.
    """

    def __init__(self) -> None:
        self._positions: dict[str, _ContainerPosition] = {}

    @property
    def since(self) -> int | None:
        """Start time for resuming, in nanoseconds since 1970; None before the first line."""
        if not self._positions:
            return None
        times = [position.at for position in self._positions.values()]
        return max(min(times), max(times) - _MARGIN)

    def restart(self) -> None:
        """Prepare for a stream that starts again at or before :attr:`since`."""
        for position in self._positions.values():
            position.again = position.then.copy()

    def admit(self, line: OutputLine, *, resumed: bool) -> bool:
        """Return True if ``line`` is new; ``resumed`` is True after the stream was requested again."""
        position = self._positions.setdefault(line.container, _ContainerPosition())
        content = (line.stderr, line.text)
        if resumed and line.at < position.at:
            return False
        if resumed and line.at == position.at and position.again[content]:
            position.again[content] -= 1
            return False
        if line.at != position.at:
            position.at = line.at
            position.then.clear()
            position.again.clear()
        position.then[content] += 1
        return True


# Status codes of a broken connection or a restarting agent.
_PASSING: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    }
)


class _StreamEnded(Exception):
    """A followed stream has ended, for example because the agent stopped."""


class NodeLogStream:
    """Log stream of a node; ``warn`` is called when the connection of a followed stream is lost."""

    def __init__(
        self, stub: AgentAsyncStub, agent: AgentEndpoint, request: LogsRequest, warn: Callable[[str], None]
    ) -> None:
        self._stub = stub
        self._agent = agent
        self._request = request
        self._warn = warn
        self._resume = ResumePoint()
        self._resumed = False

    async def batches(self) -> AsyncGenerator[list[OutputLine], None]:
        """Yield new lines as they arrive; a followed stream never ends.

        Raises:
            CliError: the agent cannot be reached, or refuses the request.
        """
        try:
            call = await self._begin()
            while True:
                try:
                    while isinstance(answer := await call.read(), LogsAnswer):
                        yield self._new(answer)
                except grpc.aio.AioRpcError as error:
                    if not self._is_temporary(error):
                        raise
                if not self._request.follow:
                    return
                call, first = await self._reconnect()
                yield self._new(first)
        except grpc.aio.AioRpcError as error:
            raise call_error(self._agent, error) from error

    async def _begin(self) -> Call:
        call = self._stub.Logs(self._request)
        await wait_connected(self._agent, call)
        return call

    async def _reconnect(self) -> tuple[Call, LogsAnswer]:
        """Resume the stream and return the call with its first answer; a stream without an answer is retried."""
        self._resumed = True
        if (since := self._resume.since) is not None:
            self._request.since.CopyFrom(timestamp(since))
            self._request.lines = -1
        retrying = AsyncRetrying(
            retry=retry_if_exception(self._is_temporary),
            wait=wait_random_exponential(multiplier=0.2, max=5),
            before_sleep=self._warn_once,
            reraise=True,
        )
        async for attempt in retrying:
            with attempt:
                self._resume.restart()
                call = await self._begin()
                answer = await call.read()
                if not isinstance(answer, LogsAnswer):
                    raise _StreamEnded
                return call, answer
        raise AssertionError("tenacity ends with a result or an exception")

    def _is_temporary(self, error: BaseException) -> bool:
        if isinstance(error, grpc.aio.AioRpcError):
            return self._request.follow and error.code() in _PASSING
        return isinstance(error, _StreamEnded) or (isinstance(error, CliError) and error.code == "agent_unreachable")

    def _warn_once(self, state: RetryCallState) -> None:
        if state.attempt_number == 1:
            self._warn(f"lost connection to node {self._agent.node}; reconnecting")

    def _new(self, answer: LogsAnswer) -> list[OutputLine]:
        lines = [from_message(self._agent.node, message) for message in answer.lines]
        return [line for line in lines if self._resume.admit(line, resumed=self._resumed)]
