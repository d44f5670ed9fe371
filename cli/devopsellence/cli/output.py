"""What a person or a program reads: text, or JSON with one shape for every command.

In JSON a bounded command prints one document, a streaming one prints one object a line; both have
``schema_version``, ``operation``, ``event`` (started, progress, result, error) and ``ok``. Errors are sentences on
stderr; with JSON the error is also the last object on stdout.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA_VERSION: Final = 1
_CHECK_SIGNS: Final = {"ok": "ok  ", "warning": "warn", "error": "FAIL"}
_CHECK_COLOURS: Final = {"ok": "green", "warning": "yellow", "error": "red"}


@dataclass(frozen=True)
class NextAction:
    """One thing to do about a problem: ``label`` says what it does, ``command`` is ready to be typed."""

    label: str
    command: str

    def document(self) -> dict[str, str]:
        """The shape that it has in JSON."""
        return {"label": self.label, "command": self.command}


@dataclass(frozen=True)
class Finding:
    """One problem among several: a line of a configuration file, a service that has no node, a failed check.

    ``severity`` is "error" or "warning"; ``evidence`` is what was seen (a place in a file, log lines), as text.
    """

    code: str
    message: str
    severity: str = "error"
    evidence: str = ""
    next_actions: tuple[NextAction, ...] = ()

    def document(self) -> dict[str, Any]:
        """The shape that it has in JSON."""
        return {
            "severity": self.severity,
            "code": self.code,
            "message": self.message,
            "evidence": self.evidence,
            "next_actions": [action.document() for action in self.next_actions],
        }


@dataclass(frozen=True)
class CheckResult:
    """Result of one check of ``doctor`` or ``ingress check``; ``severity`` is "ok", "warning" or "error"."""

    name: str
    severity: str
    message: str
    code: str = ""
    next_actions: tuple[NextAction, ...] = ()

    @classmethod
    def from_error(cls, name: str, error: CliError, severity: str = "error") -> CheckResult:
        """Return the result of a check that ended with ``error``."""
        return cls(name, severity, error.message, error.code, error.next_actions)

    def document(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "name": self.name,
            "severity": self.severity,
            "code": self.code,
            "message": self.message,
            "next_actions": [action.document() for action in self.next_actions],
        }

    def text(self) -> str:
        """Return the lines for a terminal: the result, then how to fix the problem."""
        sign = click.style(_CHECK_SIGNS[self.severity], fg=_CHECK_COLOURS[self.severity])
        actions = [f"      {action.label}: {action.command}" for action in self.next_actions]
        return "\n".join([f"{sign}  {self.name}: {self.message}", *actions])

    def finding(self) -> Finding:
        """Return the result as part of an error."""
        return Finding(self.code or self.name, f"{self.name}: {self.message}", self.severity, "", self.next_actions)


class CliError(click.ClickException):
    """Something that a person can act on: what happened, where, and what mends it.

    ``code`` is a stable word such as ``etcd_unavailable``. ``exit_code`` is 1, or 2 for usage and an invalid
    configuration, or 130 when interrupted. What is wrong in detail stands in ``findings``; ``next_actions`` mend the
    error as a whole.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        exit_code: int = 1,
        next_actions: Sequence[NextAction] = (),
        findings: Sequence[Finding] = (),
    ) -> None:
        super().__init__(message)
        self.code = code
        self.exit_code = exit_code  # type: ignore[misc]  # click declares it for the class
        self.next_actions = tuple(next_actions)
        self.findings = tuple(findings)

    def document(self) -> dict[str, Any]:
        """The shape that it has in JSON."""
        findings = list(self.findings)
        if self.next_actions or not findings:
            findings.append(Finding(self.code, self.message, next_actions=self.next_actions))
        return {
            "code": self.code,
            "message": self.message,
            "exit_code": self.exit_code,
            "findings": [finding.document() for finding in findings],
        }

    def text(self) -> str:
        """What a person reads on stderr."""
        lines = [f"Error: {self.message}"]
        for finding in self.findings:
            # A single finding often is the error.
            lines += [f"  {finding.message}"] if finding.message != self.message else []
            lines += [f"    {line}" for line in finding.evidence.splitlines()]
            lines += [f"    {action.label}: {action.command}" for action in finding.next_actions]
        lines += [f"  {action.label}: {action.command}" for action in self.next_actions]
        return "\n".join(lines)


class Output:
    """Where every command's words go. One per process, made before the command line is parsed.

    ``json`` and ``quiet`` are set while the options are parsed, so read them in a command, not before.
    """

    def __init__(self, *, json: bool = False, quiet: bool = False, environ: Mapping[str, str] = os.environ) -> None:
        self.json = json
        self.quiet = quiet
        self.debug = False
        # The command's words, such as "node label set"; the parser keeps it up to date.
        self.operation = ""
        self._environ = environ
        self._streaming = False

    @property
    def is_tty(self) -> bool:
        """Whether live views and colour make sense: text on a terminal that can move its cursor."""
        return not self.json and sys.stdout.isatty() and self._environ.get("TERM") != "dumb"

    @property
    def live(self) -> bool:
        """Whether to draw views that change while something goes on."""
        return self.is_tty and not self.quiet

    @property
    def color(self) -> bool:
        """Colour on a terminal, unless NO_COLOR is set to anything (https://no-color.org)."""
        return self.is_tty and not self._environ.get("NO_COLOR")

    def line(self, text: str) -> None:
        """A line for a person: nothing in JSON, nothing with ``--quiet``."""
        if not self.json and not self.quiet:
            click.echo(text, color=self.color)

    def warning(self, text: str) -> None:
        """A line on stderr that is not an error; also with ``--quiet``, also in JSON mode."""
        click.echo(f"Warning: {text}", err=True)

    def progress(self, operation: str, message: str, **data: Any) -> None:
        """Something happened on the way: a line, or a JSON object with ``message`` and ``data``."""
        if self.json:
            self.event(operation, "progress", message=message, **data)
        else:
            self.line(message)

    def event(self, operation: str, event: str, **data: Any) -> None:
        """One JSON object of a streaming command; nothing in text."""
        if self.json:
            self._streaming = True
            self._print({"operation": operation, "event": event, "ok": True, **data})

    def result(self, operation: str, text: str | None, **data: Any) -> None:
        """What the command is about: ``text`` for a person (also with ``--quiet``), or one JSON document of ``data``.

        ``ok`` in ``data`` says otherwise than true.
        """
        if self.json:
            self._print({"operation": operation, "event": "result", "ok": True, **data})
        elif text is not None:
            click.echo(text, color=self.color)

    def error(self, error: CliError) -> None:
        """The error as a sentence on stderr and, in JSON mode, as the last object on stdout."""
        if self.json:
            self._print({"operation": self.operation, "event": "error", "ok": False, "error": error.document()})
        click.echo(error.text(), err=True)

    def console(self) -> Console:
        """A rich console on stdout; a live view or a table goes there when :attr:`is_tty`."""
        from rich.console import Console

        return Console(no_color=not self.color, highlight=False)

    def _print(self, document: dict[str, Any]) -> None:
        # One document alone may be indented for whoever reads it on a terminal; lines of a stream may not.
        indent = 2 if sys.stdout.isatty() and not self._streaming else None
        click.echo(json.dumps({"schema_version": SCHEMA_VERSION, **document}, indent=indent, ensure_ascii=False))


pass_output = click.make_pass_decorator(Output)
