"""Passphrase of the root authority's key: from a file, or asked for on the terminal."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Final

import click

from devopsellence import input_file
from devopsellence.cli.cluster.authority import Passphrase
from devopsellence.cli.output import CliError, NextAction, Output

_LEAST_LENGTH: Final = 12


def passphrase_from(output: Output, file: Path | None, *, unencrypted: bool) -> Passphrase:
    """Return the source of the passphrase; a new key gets none if ``unencrypted``.

    Raises:
        CliError: ``usage`` (exit code 2): the options contradict one another.
    """
    if file is not None and unencrypted:
        raise CliError("usage", "give either --passphrase-file or --no-passphrase, not both", exit_code=2)
    if file is not None:
        read = partial(_read, file)
        return Passphrase(choose=lambda: _checked(read()), enter=read)
    return Passphrase(
        choose=(lambda: "") if unencrypted else partial(_choose, output),
        enter=partial(_ask, output, "of the CA's key"),
    )


def _choose(output: Output) -> str:
    return _checked(_ask(output, f"for the CA's new key ({_LEAST_LENGTH} characters or more)", repeat=True))


def _ask(output: Output, purpose: str, *, repeat: bool = False) -> str:
    """Ask without echo, on stderr, because stdout must stay a single document."""
    if output.json or sys.stdin is None or not sys.stdin.isatty():
        actions = [NextAction("give a file with the passphrase", "--passphrase-file <file>")]
        if repeat:
            actions.append(NextAction("or leave the key unencrypted", "--no-passphrase"))
        message = f"a passphrase {purpose} is needed, and there is no terminal to ask on"
        raise CliError("passphrase_missing", message, exit_code=2, next_actions=actions)
    return str(click.prompt(f"Passphrase {purpose}", hide_input=True, confirmation_prompt=repeat, err=True))


def _read(file: Path) -> str:
    try:
        return input_file.read(file).decode().split("\n", 1)[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(
            "passphrase_unreadable", f"cannot read the passphrase file {file}: {error}", exit_code=2
        ) from error


def _checked(passphrase: str) -> str:
    if len(passphrase) < _LEAST_LENGTH:
        message = f"the passphrase has {len(passphrase)} characters, and {_LEAST_LENGTH} are the least"
        raise CliError("passphrase_short", message, exit_code=2)
    return passphrase
