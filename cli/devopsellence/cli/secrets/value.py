"""Where a secret's value comes from, and what cannot be one."""

from __future__ import annotations

import sys
from typing import Final

import click

from devopsellence.age import MAX_BYTES
from devopsellence.cli.output import CliError, Output

# One byte more than is allowed, and a line end that is dropped.
_READ_BYTES: Final = MAX_BYTES + 3


def obtain(output: Output, *, stdin: bool, given: str | None, allow_empty: bool) -> bytes:
    """The value: from stdin, from the command line (with a warning), or asked for on a terminal.

    Raises:
        CliError: ``value_missing`` (exit code 2): nothing says where it is to be had; ``invalid_secret``: see
            :func:`check`.
    """
    if stdin and given is not None:
        raise CliError("usage", "--stdin and --value exclude each other", exit_code=2)
    if given is not None:
        output.warning("--value leaves the secret in the shell's history and in the list of processes; prefer --stdin")
        value = given.encode(errors="surrogateescape")
    elif stdin:
        value = without_line_end(sys.stdin.buffer.read(_READ_BYTES))
    elif sys.stdin.isatty():
        value = _asked()
    else:
        raise CliError("value_missing", "say where the value comes from: --stdin, or --value", exit_code=2)
    check(value, allow_empty=allow_empty)
    return value


def _asked() -> bytes:
    """Typed twice, without echo; an empty line is an empty value. On stderr, so that stdout stays one document."""
    text = click.prompt("Value", hide_input=True, confirmation_prompt=True, default="", show_default=False, err=True)
    return str(text).encode(errors="surrogateescape")


def without_line_end(value: bytes) -> bytes:
    """``value`` without one newline at its end, which ``echo`` and editors put there."""
    return value.removesuffix(b"\n").removesuffix(b"\r") if value.endswith(b"\n") else value


def check(value: bytes, *, allow_empty: bool) -> None:
    """Refuse what no environment variable can hold, what is too large, and an empty value that nobody meant.

    Raises:
        CliError: ``invalid_secret`` (exit code 2); its message holds nothing of the value.
    """
    if problem := _problem(value, allow_empty=allow_empty):
        raise CliError("invalid_secret", f"{problem}; nothing was written", exit_code=2)


def _problem(value: bytes, *, allow_empty: bool) -> str:
    if not value and not allow_empty:
        return "the value is empty (--allow-empty if that is meant)"
    if len(value) > MAX_BYTES:
        return f"the value is larger than {MAX_BYTES // 1024} KiB"
    if b"\0" in value:
        return "the value holds a NUL byte, which no environment variable can"
    try:
        value.decode()
    except UnicodeDecodeError:
        return "the value is not UTF-8; encode it, such as with base64"
    return ""
