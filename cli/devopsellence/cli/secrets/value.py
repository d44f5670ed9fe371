"""Input and validation of a secret's value."""

from __future__ import annotations

import sys
from typing import Final

import click

from devopsellence.age import MAX_BYTES
from devopsellence.cli.output import CliError, Output

# The limit, plus a trailing line end (two bytes), plus a byte to detect a value over the limit.
_READ_BYTES: Final = MAX_BYTES + 3


def obtain(output: Output, *, stdin: bool, argument: str | None, allow_empty: bool) -> bytes:
    """Return the value: from stdin, from the command line (with a warning), or from a prompt on a terminal.

    Raises:
        CliError: ``value_missing`` (exit code 2): no source of the value; ``invalid_secret``: see :func:`check`.
    """
    if stdin and argument is not None:
        raise CliError("usage", "give either --stdin or --value, not both", exit_code=2)
    if argument is not None:
        output.warning("--value exposes the secret in the shell history and the process list; prefer --stdin")
        value = argument.encode(errors="surrogateescape")
    elif stdin:
        value = without_line_end(sys.stdin.buffer.read(_READ_BYTES))
    elif sys.stdin.isatty():
        value = _prompt()
    else:
        raise CliError("value_missing", "no value: pass it with --stdin or --value", exit_code=2)
    check(value, allow_empty=allow_empty)
    return value


def _prompt() -> bytes:
    """Prompt twice without echo, on stderr, because stdout must stay a single document; allows an empty value."""
    text = click.prompt("Value", hide_input=True, confirmation_prompt=True, default="", show_default=False, err=True)
    return str(text).encode(errors="surrogateescape")


def without_line_end(value: bytes) -> bytes:
    """Return ``value`` without the trailing line end added by ``echo`` and editors."""
    return value.removesuffix(b"\n").removesuffix(b"\r") if value.endswith(b"\n") else value


def check(value: bytes, *, allow_empty: bool) -> None:
    """Check that ``value`` fits into an environment variable, is not too large, and not empty by mistake.

    Raises:
        CliError: ``invalid_secret`` (exit code 2); the message does not contain the value.
    """
    if problem := _problem(value, allow_empty=allow_empty):
        raise CliError("invalid_secret", f"{problem}; nothing was written", exit_code=2)


def _problem(value: bytes, *, allow_empty: bool) -> str:
    if not value and not allow_empty:
        return "the value is empty (use --allow-empty if intended)"
    if len(value) > MAX_BYTES:
        return f"the value is larger than {MAX_BYTES // 1024} KiB"
    if b"\0" in value:
        return "the value contains a NUL byte, which is not possible in an environment variable"
    try:
        value.decode()
    except UnicodeDecodeError:
        return "the value is not UTF-8; encode it, for example with base64"
    return ""
