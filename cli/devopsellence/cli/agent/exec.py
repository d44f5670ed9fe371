"""Running a command on a node for ``exec`` and ``task run``: from the options to the exit code."""

from __future__ import annotations

import codecs
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import click

from devopsellence.api.v1.agent_pb2 import RunStart
from devopsellence.cli.agent import client, terminal
from devopsellence.cli.agent.client import AgentEndpoint
from devopsellence.cli.agent.session import LocalStreams, Session, Sink
from devopsellence.cli.agent.signals import SessionInterrupted, run_with_signals
from devopsellence.cli.agent.stdio import StdioWriter
from devopsellence.cli.output import CliError, Output
from devopsellence.cli.streams import was_closed

if TYPE_CHECKING:
    import grpc.aio

    from devopsellence.api.v1.agent_pb2 import RunAnswer, RunRequest
    from devopsellence.api.v1.agent_pb2_grpc import AgentAsyncStub
    from devopsellence.store.settings import Settings

    Call = grpc.aio.StreamStreamCall[RunRequest, RunAnswer]


@dataclass(frozen=True)
class ExecOptions:
    """Options of a remote command: pass stdin, allocate a terminal, and the signal sent on the first Ctrl-C."""

    interactive: bool
    tty: bool
    interrupt: str


def check_options(output: Output, options: ExecOptions) -> None:
    """Check the options before connecting.

    Raises:
        CliError: ``no_terminal`` (exit code 2).
        UsageError: stdin is closed.
    """
    if options.interactive and was_closed("stdin"):
        raise click.UsageError("-i needs stdin, but stdin is closed")
    if options.tty and not sys.stdin.isatty():
        message = "-t needs a terminal on stdin; leave it out to pass a pipe or a file"
        raise CliError("no_terminal", message, exit_code=2)
    if options.tty and output.json:
        raise CliError("no_terminal", "-t cannot be combined with -o json", exit_code=2)


async def run_on_node(
    settings: Settings,
    agent: AgentEndpoint,
    call: Callable[[AgentAsyncStub], Call],
    start: RunStart,
    options: ExecOptions,
    output: Output,
) -> int:
    """Run a command on a node; ``call`` is the RPC for exec or for tasks.

    Return the exit code of the command, or 128 plus the number of the signal received by this process.
    """
    window = sys.stdin.fileno() if options.tty else None
    start.interactive, start.tty = options.interactive, options.tty
    if window is not None and (size := terminal.size(window)) is not None:
        start.size.CopyFrom(size)
    stdout, stderr = output_sinks(output)
    streams = LocalStreams(stdout, stderr, sys.stdin.fileno() if options.interactive else None, window)
    with ExitStack() as stack:
        async with client.connect(settings, agent) as stub:
            session = Session(agent, call(stub), streams)
            if options.tty and options.interactive:
                stack.enter_context(terminal.raw(sys.stdin.fileno()))
            try:
                code = await run_with_signals(
                    session, session.run(start), interrupt=options.interrupt, warn=_warner(output)
                )
            except SessionInterrupted as error:
                code = error.exit_code
                if error.number != signal.SIGINT:
                    with suppress(OSError):  # the terminal is closed, as after SIGHUP
                        output.warning(f"ended by {error.number.name}; the command on node {agent.node} is ended, too")
    output.result(output.operation, None, ok=code == 0, exit_code=code, node=agent.node)
    return code


def _warner(output: Output) -> Callable[[str], None]:
    def warn(text: str) -> None:
        if not output.quiet:
            output.warning(text)

    return warn


def output_sinks(output: Output) -> tuple[Sink, Sink]:
    """Return writers for stdout and stderr of the command: unchanged to the own streams, or JSON objects to stdout."""
    if output.json:
        return _JsonSink(output, "stdout"), _JsonSink(output, "stderr")
    return StdioWriter(sys.stdout).write, StdioWriter(sys.stderr).write


class _JsonSink:
    """Writer of output as JSON objects; a character split between two chunks goes into the second."""

    def __init__(self, output: Output, stream: str) -> None:
        self._output = output
        self._stream = stream
        self._decode: Final = codecs.getincrementaldecoder("utf-8")(errors="replace").decode

    async def __call__(self, data: bytes) -> None:
        if text := self._decode(data):
            self._output.event(self._output.operation, "progress", stream=self._stream, data=text)
