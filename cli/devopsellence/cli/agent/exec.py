"""What ``exec`` and ``task run`` share: from the flags to the exit code."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Callable
from contextlib import ExitStack
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

if TYPE_CHECKING:
    import grpc.aio

    from devopsellence.api.v1.agent_pb2 import RunAnswer, RunRequest
    from devopsellence.api.v1.agent_pb2_grpc import AgentAsyncStub
    from devopsellence.store.settings import Settings

    Call = grpc.aio.StreamStreamCall[RunRequest, RunAnswer]


@dataclass(frozen=True)
class ExecOptions:
    """How a command is run: with our input, on a terminal, and what the first Ctrl-C means to it."""

    interactive: bool
    tty: bool
    interrupt: str


def check_options(output: Output, manner: ExecOptions) -> None:
    """Refuse what cannot work before anything is asked.

    Raises:
        CliError: ``no_terminal`` (exit code 2).
        UsageError: there is no stdin.
    """
    # A process that was started with its stdin closed has none.
    if manner.interactive and sys.stdin is None:
        raise click.UsageError("-i needs a stdin, and it is closed")
    if manner.tty and (sys.stdin is None or not sys.stdin.isatty()):
        message = "-t needs a terminal on stdin; leave it out to pass a pipe or a file on"
        raise CliError("no_terminal", message, exit_code=2)
    if manner.tty and output.json:
        raise CliError("no_terminal", "-t and -o json exclude each other", exit_code=2)


async def run_on_node(
    settings: Settings,
    agent: AgentEndpoint,
    call: Callable[[AgentAsyncStub], Call],
    start: RunStart,
    manner: ExecOptions,
    output: Output,
) -> int:
    """Run what ``start`` says on one node; ``call`` chooses between the agent's two ways to run something.

    Returns the exit code: the command's, or 128 and the signal's number if a signal ended it from here.
    """
    window = sys.stdin.fileno() if manner.tty else None
    start.interactive, start.tty = manner.interactive, manner.tty
    if window is not None and (size := terminal.size(window)) is not None:
        start.size.CopyFrom(size)
    stdout, stderr = output_sinks(output)
    here = LocalStreams(stdout, stderr, sys.stdin.fileno() if manner.interactive else None, window)
    with ExitStack() as stack:
        async with client.connect(settings, agent) as stub:
            session = Session(agent, call(stub), here)
            if manner.tty and manner.interactive:
                stack.enter_context(terminal.raw(sys.stdin.fileno()))
            try:
                code = await run_with_signals(session, session.run(start), interrupt=manner.interrupt, say=_say(output))
            except SessionInterrupted as error:
                code = error.exit_code
    output.result(output.operation, None, ok=code == 0, exit_code=code, node=agent.node)
    return code


def _say(output: Output) -> Callable[[str], None]:
    def say(text: str) -> None:
        if not output.quiet:
            output.warning(text)

    return say


def output_sinks(output: Output) -> tuple[Sink, Sink]:
    """Where stdout and stderr of the command go: to ours as they are, or as JSON objects to stdout."""
    if output.json:
        return _JsonSink(output, "stdout"), _JsonSink(output, "stderr")
    return StdioWriter(sys.stdout).write, StdioWriter(sys.stderr).write


class _JsonSink:
    """Each piece of output as an object; a character that arrives in two pieces is in the second."""

    def __init__(self, output: Output, stream: str) -> None:
        self._output = output
        self._stream = stream
        self._decode: Final = codecs.getincrementaldecoder("utf-8")(errors="replace").decode

    async def __call__(self, data: bytes) -> None:
        if text := self._decode(data):
            self._output.event(self._output.operation, "progress", stream=self._stream, data=text)
