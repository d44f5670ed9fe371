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

# How far back lines are asked for again on account of a container that has said less than another.
_MARGIN: Final = 30 * NANOS


@dataclass(slots=True)
class _Seen:
    """What one container has said: its last time, and what it said at that very time."""

    at: int = -1
    then: Counter[tuple[bool, bytes]] = field(default_factory=Counter)
    # What is still to be passed over of ``then``, after the stream was taken up again.
    again: Counter[tuple[bool, bytes]] = field(default_factory=Counter)


class ResumePoint:
    """Remembers how far each container of a stream has been heard.

    Containers' lines arrive in order, those of different containers not quite: after a break, lines are asked for from
    :attr:`since` on, and :meth:`admit` leaves out those that were there before.
    """

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    @property
    def since(self) -> int | None:
        """From when on lines are to be asked for again; None when none has been seen."""
        if not self._seen:
            return None
        times = [seen.at for seen in self._seen.values()]
        return max(min(times), max(times) - _MARGIN)

    def restart(self) -> None:
        """The stream begins again, at or before :attr:`since`."""
        for seen in self._seen.values():
            seen.again = seen.then.copy()

    def admit(self, line: OutputLine, *, resumed: bool) -> bool:
        """Whether ``line`` is new; ``resumed``: the stream has begun again, so it may not be."""
        seen = self._seen.setdefault(line.container, _Seen())
        said = (line.stderr, line.text)
        if resumed and line.at < seen.at:
            return False
        if resumed and line.at == seen.at and seen.again[said]:
            seen.again[said] -= 1
            return False
        if line.at != seen.at:
            seen.at = line.at
            seen.then.clear()
            seen.again.clear()
        seen.then[said] += 1
        return True


# What a connection that broke, or an agent that is being restarted, is known by.
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


class _Ended(Exception):
    """A stream that is followed has ended, as when an agent stops."""


class NodeLogStream:
    """What ``request`` asks of ``agent``; ``warn`` hears when a followed stream is lost."""

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
        """New lines as they come; ends with the output, or never while it is followed.

        Raises:
            CliError: the agent cannot be asked, or will not answer this.
        """
        try:
            call = await self._begin()
            while True:
                try:
                    while isinstance(answer := await call.read(), LogsAnswer):
                        yield self._new(answer)
                except grpc.aio.AioRpcError as error:
                    if not self._goes_on(error):
                        raise
                if not self._request.follow:
                    return
                call, first = await self._again()
                yield self._new(first)
        except grpc.aio.AioRpcError as error:
            raise call_error(self._agent, error) from error

    async def _begin(self) -> Call:
        call = self._stub.Logs(self._request)
        await wait_connected(self._agent, call)
        return call

    async def _again(self) -> tuple[Call, LogsAnswer]:
        """The stream from where it broke, and its first answer: one that ends without any is lost once more."""
        self._resumed = True
        if (since := self._resume.since) is not None:
            self._request.since.CopyFrom(timestamp(since))
            self._request.lines = -1
        retrying = AsyncRetrying(
            retry=retry_if_exception(self._goes_on),
            wait=wait_random_exponential(multiplier=0.2, max=5),
            before_sleep=self._say_once,
            reraise=True,
        )
        async for attempt in retrying:
            with attempt:
                self._resume.restart()
                call = await self._begin()
                answer = await call.read()
                if not isinstance(answer, LogsAnswer):
                    raise _Ended
                return call, answer
        raise AssertionError("tenacity ends with a result or an exception")

    def _goes_on(self, error: BaseException) -> bool:
        if isinstance(error, grpc.aio.AioRpcError):
            return self._request.follow and error.code() in _PASSING
        return isinstance(error, _Ended) or (isinstance(error, CliError) and error.code == "agent_unreachable")

    def _say_once(self, state: RetryCallState) -> None:
        if state.attempt_number == 1:
            self._warn(f"the connection to node {self._agent.node} is lost; trying again")

    def _new(self, answer: LogsAnswer) -> list[OutputLine]:
        lines = [from_message(self._agent.node, message) for message in answer.lines]
        return [line for line in lines if self._resume.admit(line, resumed=self._resumed)]
