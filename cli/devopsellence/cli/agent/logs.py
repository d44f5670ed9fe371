"""``logs`` from the sources to the last line: connects, asks, and writes what comes."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from devopsellence.api.v1.agent_pb2 import LogsRequest
from devopsellence.cli.agent import client
from devopsellence.cli.agent.log_line import OutputLine, timestamp
from devopsellence.cli.agent.log_merge import FOLLOW_WAIT_SECONDS, READ_WAIT_SECONDS, LogMerger
from devopsellence.cli.agent.log_render import LineRenderer
from devopsellence.cli.agent.log_stream import NodeLogStream
from devopsellence.cli.agent.select import LogSource
from devopsellence.cli.agent.stdio import StdioWriter
from devopsellence.cli.output import CliError, Finding, Output

if TYPE_CHECKING:
    from devopsellence.store.settings import Settings


@dataclass(frozen=True)
class LogQuery:
    """Which lines: ``lines`` of each container at most (negative: all), none before ``since`` (nanoseconds)."""

    environment: str
    follow: bool
    lines: int
    since: int | None


class LogPrinter:
    """One run of ``logs``; ``problems`` are the nodes that could not be asked, or not to the end."""

    def __init__(self, output: Output, outlet: StdioWriter, render: LineRenderer) -> None:
        self._output = output
        self._outlet = outlet
        self._render = render
        self.problems: list[CliError] = []

    async def show(
        self, settings: Settings, sources: list[LogSource], wanted: LogQuery, *, services: list[str]
    ) -> None:
        """Write the output of all ``sources``; ``services`` are those that were asked for, none: all.

        Raises:
            CliError: none of them could be asked.
        """
        async with AsyncExitStack() as stack:
            tails: list[NodeLogStream] = []
            for source in sources:
                try:
                    stub = await stack.enter_async_context(client.connect(settings, source.agent))
                except CliError as error:
                    self._failed(error)
                    continue
                requests = _requests(source, wanted, services)
                tails += [NodeLogStream(stub, source.agent, request, self._output.warning) for request in requests]
            failed_before = len(self.problems)
            patience = FOLLOW_WAIT_SECONDS if wanted.follow else READ_WAIT_SECONDS
            await LogMerger(tails, self._write, patience=patience).run(self._failed)
        if len(self.problems) - failed_before == len(tails):
            raise self._none()

    def _none(self) -> CliError:
        codes = {problem.code for problem in self.problems}
        # As text they have been said already.
        findings = [Finding(each.code, each.message) for each in self.problems] if self._output.json else []
        code = codes.pop() if len(codes) == 1 else "agent_unreachable"
        return CliError(code, "no node could be asked", findings=findings)

    def _failed(self, error: CliError) -> None:
        # Several streams of one node fail in the same way.
        if all(error.message != known.message for known in self.problems):
            self._output.warning(error.message)
        self.problems.append(error)

    async def _write(self, lines: list[OutputLine]) -> None:
        await self._outlet.write(b"".join(map(self._render, lines)))
        # Where writing never waits, the streams still get their turn.
        await asyncio.sleep(0)


def _requests(source: LogSource, wanted: LogQuery, services: list[str]) -> list[LogsRequest]:
    """What to ask one node for.

    What has been written before is asked for service by service: such a stream is in order of time, so that several are
    merged exactly without being kept in memory. One that is followed has all services, also those still to come.
    """
    groups = [[name] for name in source.services]
    if wanted.follow:
        groups = [list(source.services) if services else []]
    since = timestamp(wanted.since) if wanted.since is not None else None
    return [
        LogsRequest(
            environment=wanted.environment, services=group, follow=wanted.follow, lines=wanted.lines, since=since
        )
        for group in groups
    ]
