"""``doctor``: everything that a deploy depends on, looked at one by one."""

from __future__ import annotations

from typing import Final

import click

from devopsellence.cli.output import CliError, Output, pass_output

OPERATION: Final = "doctor"


@click.command()
@pass_output
@click.pass_context
def doctor(ctx: click.Context, output: Output) -> None:
    """Check the configuration, Docker, etcd, the controller and the nodes, and say how to mend what fails.

    \b
    Example:
      devopsellence doctor
    """
    from devopsellence.cli import doctor as checks

    found = checks.all_checks(ctx)
    failed = [check for check in found if check.severity == "error"]
    if not failed or not output.json:
        text = "\n".join(check.text() for check in found)
        output.result(OPERATION, text, checks=[check.document() for check in found])
    if failed:
        names = ", ".join(check.name for check in failed)
        findings = [check.finding() for check in found if check.severity != "ok"] if output.json else []
        raise CliError("check_failed", f"not well: {names}", findings=findings)
