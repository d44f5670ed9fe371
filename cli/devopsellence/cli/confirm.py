"""Confirmation of commands that destroy something: a question on a terminal, the flag ``-y`` elsewhere.

A command declares the loss with :func:`destroys` and asks with :func:`confirm` once the loss is known in detail.
Without a terminal and without ``-y`` the command is refused before anything is read or written, so the refusal depends
on the command line alone.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any, Final, TypeVar, cast

import click

from devopsellence.cli.output import CliError, NextAction, Output
from devopsellence.cli.untrusted import safe_lines

F = TypeVar("F", bound=Callable[..., Any])
_META: Final = "devopsellence.confirmed"
REQUIRED: Final = "confirmation_required"
_ANSWERS: Final = {"y": True, "yes": True, "n": False, "no": False, "": False}


@dataclass(frozen=True)
class Destruction:
    """Loss caused by a command.

    ``loss`` continues a sentence that begins with the command, such as "deletes the secret with all its versions".
    ``when`` is the parameter without which nothing is lost, ``unless`` the parameter with which nothing is lost; "" for
    none. ``late``: only the cluster tells if there is a loss, so the command itself decides.
    """

    loss: str
    when: str = ""
    unless: str = ""
    late: bool = False

    def applies(self, parameters: Mapping[str, Any]) -> bool:
        """Return True if a command with ``parameters`` destroys something, by its command line alone."""
        if self.late or (self.unless and parameters.get(self.unless)):
            return False
        return not self.when or bool(parameters.get(self.when))


class ConfirmOption(click.Option):
    """Flag ``-y`` of a command that destroys something."""

    def __init__(self, *arguments: Any, destruction: Destruction, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.destruction = destruction


def destroys(loss: str, *, when: str = "", unless: str = "", late: bool = False) -> Callable[[F], F]:
    """Declare a command as destructive, add ``-y``, and refuse the command without a terminal and without ``-y``.

    The decorator belongs directly below the one that creates the command; parameters as in :class:`Destruction`.
    """
    destruction = Destruction(loss, when, unless, late)

    def decorate(command: F) -> F:
        @wraps(command)
        def checked(*arguments: Any, **keywords: Any) -> Any:
            ctx = click.get_current_context()
            if destruction.applies(ctx.params) and not confirmed(ctx) and not _can_ask(ctx.ensure_object(Output)):
                raise refusal(ctx, loss)
            return command(*arguments, **keywords)

        option = click.option(
            "-y",
            "--yes",
            cls=ConfirmOption,
            destruction=destruction,
            is_flag=True,
            expose_value=False,
            callback=_store,
            help="Do not ask for confirmation.",
        )
        return option(cast("F", checked))

    return decorate


class AnswerNeeded(CliError):
    """Question to be answered on a terminal before a command can go on; ``-y`` is no answer to it.

    ``accept`` records a yes, so that the command is not asked again; None: there is nobody to answer.
    """

    def __init__(
        self, code: str, message: str, *, question: str, accept: Callable[[], None] | None, **more: Any
    ) -> None:
        super().__init__(code, message, exit_code=2, **more)
        self._question = question
        self._accept = accept

    def answer(self, output: Output) -> None:
        """Ask the question and record a yes. Not to be called in an event loop, as :func:`confirm`.

        Raises:
            AnswerNeeded: there is no terminal to ask on. CliError: ``not_confirmed``: the answer is no.
            Abort: Ctrl-C or the end of input at the prompt.
        """
        if self._accept is None or not _can_ask(output):
            raise self
        _ask(self._question)
        self._accept()


def confirm(ctx: click.Context, sentence: str, *, code: str = REQUIRED) -> None:
    """Ask for confirmation of the loss that ``sentence`` describes; return at once with ``-y``.

    Not to be called in an event loop: a prompt there would hold back Ctrl-C.

    Raises:
        CliError: ``code`` (exit code 2): there is no terminal to ask on; ``not_confirmed``: the answer is no.
        Abort: Ctrl-C or the end of input at the prompt.
    """
    if confirmed(ctx):
        return
    if not _can_ask(ctx.ensure_object(Output)):
        raise refusal(ctx, sentence, code=code)
    _ask(f"{sentence} Continue?")


def _ask(question: str) -> None:
    """Return after a yes; CliError ``not_confirmed`` after a no, Abort without an answer."""
    try:
        sure = _answer(f"{safe_lines(question)} [y/N]: ")
    except (EOFError, OSError, KeyboardInterrupt) as error:
        click.echo()  # the prompt is still on the line
        raise click.Abort from error
    if not sure:
        raise CliError("not_confirmed", "not confirmed; nothing was changed")


def confirmed(ctx: click.Context) -> bool:
    """Return True if the command line has ``-y``."""
    return bool(ctx.meta.get(_META))


def refusal(ctx: click.Context, loss: str, *, code: str = REQUIRED) -> CliError:
    """Return the error for a destructive command without confirmation; repeats no argument, as it may be a value."""
    subject = loss.rstrip(".") if loss[:1].isupper() else f"{ctx.command_path} {loss}"
    action = NextAction("to confirm", "the same command with -y")
    return CliError(
        code, f"{subject}; without a terminal to ask on, this needs the flag -y", exit_code=2, next_actions=[action]
    )


def _answer(question: str) -> bool:
    """Return the answer to a question; no by default."""
    while True:
        click.echo(question, nl=False)
        _wait_for_line()
        answer = sys.stdin.readline()
        if not answer:
            raise EOFError
        if (word := answer.strip().lower()) in _ANSWERS:
            return _ANSWERS[word]
        click.echo("Error: invalid input")


def _wait_for_line() -> None:
    """Wait until stdin has a line or a signal arrives, also one that arrives just before the wait.

    A plain read would miss such a signal: Python runs its handler only after the read has returned.
    """
    try:
        descriptor = sys.stdin.fileno()
    except OSError:  # not a file, in tests
        return
    reader, writer = os.pipe()
    try:
        os.set_blocking(writer, False)
        before = signal.set_wakeup_fd(writer)
        try:
            select.select([descriptor, reader], [], [])
        finally:
            signal.set_wakeup_fd(before)
    finally:
        os.close(reader)
        os.close(writer)


def _store(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta[_META] = True


def _can_ask(output: Output) -> bool:
    """Return True for text output with stdin and stdout on a terminal; a stream closed at the start is None."""
    streams = (sys.stdin, sys.stdout)
    return not output.json and all(stream is not None and stream.isatty() for stream in streams)
