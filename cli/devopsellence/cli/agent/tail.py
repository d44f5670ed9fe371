"""One node's output, taken up again where it broke as long as it is followed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Final

import grpc
import grpc.aio
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from devopsellence.api.v1.agent_pb2 import LogsAnswer, LogsRequest
from devopsellence.cli.agent.client import Agent, connected, refused
from devopsellence.cli.agent.log_line import Line, from_message, timestamp
from devopsellence.cli.agent.log_stream import Resume
from devopsellence.cli.output import CliError

if TYPE_CHECKING:
    from devopsellence.api.v1.agent_pb2_grpc import AgentAsyncStub

    Call = grpc.aio.UnaryStreamCall[LogsRequest, LogsAnswer]

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


class Tail:
    """What ``request`` asks of ``agent``; ``warn`` hears when a followed stream is lost."""

    def __init__(self, stub: AgentAsyncStub, agent: Agent, request: LogsRequest, warn: Callable[[str], None]) -> None:
        self._stub = stub
        self._agent = agent
        self._request = request
        self._warn = warn
        self._resume = Resume()
        self._resumed = False

    async def batches(self) -> AsyncGenerator[list[Line], None]:
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
            raise refused(self._agent, error) from error

    async def _begin(self) -> Call:
        call = self._stub.Logs(self._request)
        await connected(self._agent, call)
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

    def _new(self, answer: LogsAnswer) -> list[Line]:
        lines = [from_message(self._agent.node, message) for message in answer.lines]
        return [line for line in lines if self._resume.admit(line, resumed=self._resumed)]
