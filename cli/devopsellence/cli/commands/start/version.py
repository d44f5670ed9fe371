"""``version``: the installed version, as printed by ``--version``."""

from __future__ import annotations

import click

from devopsellence.cli.output import Output, pass_output
from devopsellence.cli.util.version import installed_version, version_line


@click.command()
@pass_output
def version(output: Output) -> None:
    """Show the version of devopsellence.

    \b
    Example:
      devopsellence version
      devopsellence version -o json
    """
    output.result("version", version_line(), version=installed_version())
