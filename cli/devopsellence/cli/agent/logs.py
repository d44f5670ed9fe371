"""``logs``: connect to the agents, request the log lines, print them."""

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
    """Selection of log lines: at most ``lines`` per container (negative: all), none before ``since`` (nanoseconds).

    ``previous``: the newest container of each service that is gone. ``release``: containers created by this release,
    0 for any. ``task``: the release task of this name instead of services.
    """

    environment: str
    follow: bool
    lines: int
    since: int | None
    previous: bool = False
    release: int = 0
    task: str = ""


class LogPrinter:
    """Printer of logs; ``problems`` are the errors of unreachable or lost nodes."""

    def __init__(self, output: Output, writer: StdioWriter, render: LineRenderer) -> None:
        self._output = output
        self._writer = writer
        self._render = render
        #: Number of lines printed.
        self.lines = 0
        self.problems: list[CliError] = []

    async def show(self, settings: Settings, sources: list[LogSource], query: LogQuery, *, services: list[str]) -> None:
        """Print the logs of all ``sources``; ``services`` are the requested services, empty for all.

        Raises:
            CliError: no node could be reached.
        """
        async with AsyncExitStack() as stack:
            streams: list[NodeLogStream] = []
            for source in sources:
                try:
                    stub = await stack.enter_async_context(client.connect(settings, source.agent))
                except CliError as error:
                    self._failed(error)
                    continue
                requests = _requests(source, query, services)
                streams += [NodeLogStream(stub, source.agent, request, self._output.warning) for request in requests]
            failed_before = len(self.problems)
            patience = FOLLOW_WAIT_SECONDS if query.follow else READ_WAIT_SECONDS
            await LogMerger(streams, self._write, patience=patience).run(self._failed)
        if len(self.problems) - failed_before == len(streams):
            raise self._no_node_error()

    def _no_node_error(self) -> CliError:
        codes = {problem.code for problem in self.problems}
        # In text mode, the problems have been printed as warnings.
        findings = [Finding(problem.code, problem.message) for problem in self.problems] if self._output.json else []
        code = codes.pop() if len(codes) == 1 else "agent_unreachable"
        return CliError(code, "no node could be reached", findings=findings)

    def _failed(self, error: CliError) -> None:
        # Several streams of one node fail in the same way.
        if all(error.message != known.message for known in self.problems):
            self._output.warning(error.message)
        self.problems.append(error)

    async def _write(self, lines: list[OutputLine]) -> None:
        self.lines += len(lines)
        await self._writer.write(b"".join(map(self._render, lines)))
        # Let the streams run even if writing never waits.
        await asyncio.sleep(0)


def _requests(source: LogSource, query: LogQuery, services: list[str]) -> list[LogsRequest]:
    """Return the log requests for a node.

    Past output is requested per service, because such a stream is in the order of time and can be merged exactly
    without buffering. A followed stream has all services, including future ones.
    """
    groups = [[name] for name in source.services]
    if query.task:
        groups = [[]]
    if query.follow:
        groups = [list(source.services) if services else []]
    since = timestamp(query.since) if query.since is not None else None
    return [
        LogsRequest(
            environment=query.environment,
            services=group,
            follow=query.follow,
            lines=query.lines,
            since=since,
            previous=query.previous,
            release=query.release,
            task=query.task,
        )
        for group in groups
    ]
