"""Output of commands: text for people, or JSON of the same structure for every command.

Control characters in text from nodes become escapes here, whatever a command prints: see ``untrusted``.

In JSON, a bounded command prints a single document and a streaming command prints an object per line. All objects have
``schema_version``, ``operation``, ``event`` (started, progress, result, error) and ``ok``; results and errors also have
``next_actions``. Errors are messages on stderr; in JSON mode the error is also the last object on stdout.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from devopsellence.cli.untrusted import safe, safe_json, safe_styled

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA_VERSION: Final = 1
_CHECK_SIGNS: Final = {"ok": "ok  ", "warning": "warn", "error": "FAIL"}
_CHECK_COLOURS: Final = {"ok": "green", "warning": "yellow", "error": "red"}
# The coloured signs that begin a line, the only control sequences in a text.
_COLOURED_SIGN: Final = re.compile("^\x1b\\[3[123]m(?:ok  |warn|FAIL)\x1b\\[0m", re.MULTILINE)


@dataclass(frozen=True)
class NextAction:
    """Next step to fix a problem: ``label`` describes the step, ``command`` can be copied into a shell."""

    label: str
    command: str

    def document(self) -> dict[str, str]:
        """Return the JSON form."""
        return {"label": self.label, "command": self.command}


@dataclass(frozen=True)
class Finding:
    """Problem in a list of problems: a line of a configuration file, a service without a node, a failed check.

    ``severity`` is "error" or "warning"; ``evidence`` is text such as a place in a file or log lines.
    """

    code: str
    message: str
    severity: str = "error"
    evidence: str = ""
    next_actions: tuple[NextAction, ...] = ()

    def document(self) -> dict[str, Any]:
        """Return the JSON form."""
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
        actions = [f"      {safe(action.label)}: {safe(action.command)}" for action in self.next_actions]
        return "\n".join([f"{check_sign(self.severity)}  {safe(f'{self.name}: {self.message}')}", *actions])

    def finding(self) -> Finding:
        """Return the result as part of an error."""
        return Finding(self.code or self.name, f"{self.name}: {self.message}", self.severity, "", self.next_actions)


class CliError(click.ClickException):
    """Error for a person: a message, a stable code and the next steps to fix the problem.

    ``code`` is a stable word such as ``etcd_unavailable``. ``exit_code`` is 1; 2 for usage errors and an invalid
    configuration; 130 after an interrupt. ``findings`` hold the details; ``next_actions`` fix the error as a whole.
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
        """Return the JSON form."""
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
        """Return the message for stderr, with findings and next steps."""
        lines = [f"Error: {self.message}"]
        for finding in self.findings:
            # A single finding often repeats the message of the error.
            lines += [f"  {finding.message}"] if finding.message != self.message else []
            lines += [f"    {line}" for line in finding.evidence.splitlines()]
            lines += [f"    {action.label}: {action.command}" for action in finding.next_actions]
        lines += [f"  {action.label}: {action.command}" for action in self.next_actions]
        return "\n".join(safe(line) for line in lines)


class Output:
    """Printer of a process, created before the command line is parsed.

    The parser sets ``json`` and ``quiet``: read them in a command, not earlier.
    """

    def __init__(self, *, json: bool = False, quiet: bool = False, environ: Mapping[str, str] = os.environ) -> None:
        self.json = json
        self.quiet = quiet
        self.debug = False
        self.no_color = False
        # Name of the command, such as "node label set"; set by the parser.
        self.operation = ""
        self._environ = environ
        self._streaming = False

    @property
    def is_tty(self) -> bool:
        """True for text output on a terminal with cursor control (not ``TERM=dumb``)."""
        return not self.json and sys.stdout.isatty() and self._environ.get("TERM") != "dumb"

    @property
    def live(self) -> bool:
        """True for live views: text on a terminal, without ``--quiet``."""
        return self.is_tty and not self.quiet

    @property
    def color(self) -> bool:
        """True for colour output: a terminal, without ``--no-color`` and NO_COLOR (https://no-color.org)."""
        return self.is_tty and not self.no_color and not self._environ.get("NO_COLOR")

    def line(self, text: str) -> None:
        """Print a line of text; nothing in JSON mode or with ``--quiet``."""
        if not self.json and not self.quiet:
            self._echo(text)

    def warning(self, text: str) -> None:
        """Print a warning to stderr, also in JSON mode and with ``--quiet``."""
        click.echo(safe(f"Warning: {text}"), err=True)

    def note(self, text: str) -> None:
        """Print a line to stderr beside the output of a program; nothing with ``--quiet``."""
        if not self.quiet:
            click.echo(safe(text), err=True)

    def progress(self, operation: str, message: str, **data: Any) -> None:
        """Report progress: a line of text, or a JSON object with ``message`` and ``data``."""
        if self.json:
            self.event(operation, "progress", message=message, **data)
        else:
            self.line(message)

    def event(self, operation: str, event: str, **data: Any) -> None:
        """Print a JSON object of a streaming command; nothing in text mode."""
        if self.json:
            self._streaming = True
            self._print({"operation": operation, "event": event, "ok": True, **data})

    def result(self, operation: str, text: str | None, *, next_actions: Iterable[NextAction] = (), **data: Any) -> None:
        """Print the result: ``text`` (also with ``--quiet``), or a JSON document of ``data``.

        ``ok`` is true unless ``data`` has another value. ``next_actions`` are the next steps, as said in ``text``.
        """
        if self.json:
            steps = _steps(next_actions)
            self._print({"operation": operation, "event": "result", "ok": True, **data, "next_actions": steps})
        elif text is not None:
            self._echo(text)

    def error(self, error: CliError) -> None:
        """Print the error to stderr and, in JSON mode, as the last object on stdout."""
        if self.json:
            steps = [*error.next_actions, *(action for finding in error.findings for action in finding.next_actions)]
            document = {"event": "error", "ok": False, "error": error.document(), "next_actions": _steps(steps)}
            self._print({"operation": self.operation, **document})
        click.echo(error.text(), err=True)

    def console(self) -> Console:
        """Return a rich console on stdout, for tables and live views when :attr:`is_tty`."""
        from devopsellence.cli.console import SafeConsole

        return SafeConsole(no_color=not self.color, highlight=False)

    def _echo(self, text: str) -> None:
        click.echo(safe_styled(text, _COLOURED_SIGN), color=self.color)

    def _print(self, document: dict[str, Any]) -> None:
        # A single document is indented for reading on a terminal; an object of a stream must stay on a line.
        indent = 2 if sys.stdout.isatty() and not self._streaming else None
        text = json.dumps({"schema_version": SCHEMA_VERSION, **document}, indent=indent, ensure_ascii=False)
        click.echo(safe_json(text))


def check_sign(severity: str) -> str:
    """Return the coloured sign of a check, for the beginning of a line; ``severity`` is "ok", "warning" or "error"."""
    return click.style(_CHECK_SIGNS[severity], fg=_CHECK_COLOURS[severity])


def _steps(actions: Iterable[NextAction]) -> list[dict[str, str]]:
    """Return the JSON form of ``actions``, without duplicates."""
    return [action.document() for action in dict.fromkeys(actions)]


pass_output = click.make_pass_decorator(Output)
