"""``doctor``: check everything a deploy depends on."""

from __future__ import annotations

from typing import Final

import click

from devopsellence.cli.output import CliError, Output, pass_output

OPERATION: Final = "doctor"


@click.command()
@pass_output
@click.pass_context
def doctor(ctx: click.Context, output: Output) -> None:
    """Check the setup and show how to fix problems.

    Checks the configuration, Docker, certificates, etcd, the gateways and their audit trails, the controller, the nodes
    with their agents, and the ingress. The exit code is 1 if a check fails.

    \b
    Example:
      devopsellence doctor
    """
    from devopsellence.cli.doctor import all_checks

    checks = all_checks(ctx)
    failed = [check for check in checks if check.severity == "error"]
    if not failed or not output.json:
        text = "\n".join(check.text() for check in checks)
        steps = [action for check in checks for action in check.next_actions]
        output.result(OPERATION, text, checks=[check.document() for check in checks], next_actions=steps)
    if failed:
        names = ", ".join(check.name for check in failed)
        findings = [check.finding() for check in checks if check.severity != "ok"] if output.json else []
        raise CliError("check_failed", f"failed checks: {names}", findings=findings)
