"""Options of commands that use the cluster's CA on this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

pki_option = click.option(
    "--pki", metavar="DIR", help="Folder of the cluster's CA.  [default: cluster/ in the state folder]"
)


def passphrase_options(command: F) -> F:
    """Declare ``--passphrase-file`` and ``--no-passphrase``."""
    no_passphrase = click.option("--no-passphrase", is_flag=True, help="Do not encrypt the key of a new CA.")
    file = click.option(
        "--passphrase-file",
        type=click.Path(dir_okay=False, path_type=Path),
        help="File with the passphrase of the CA's key, in its first line.  [default: ask on the terminal]",
    )
    return file(no_passphrase(command))
