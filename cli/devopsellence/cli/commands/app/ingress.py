"""``ingress``: set, show and check the hosts, routing rules and TLS of an environment."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from devopsellence.access.roles import Action
from devopsellence.cli import context
from devopsellence.cli.commands.app.ingress_cert import cert
from devopsellence.cli.commands.complete import complete_hosts, complete_services
from devopsellence.cli.groups import CommandGroup
from devopsellence.cli.options import AliasedOption, duration_seconds, environment_option
from devopsellence.cli.output import CliError, NextAction, Output, pass_output

if TYPE_CHECKING:
    from devopsellence.cli.output import CheckResult
    from devopsellence.cli.store.snapshot import Snapshot
    from devopsellence.store.etcd import Etcd


@click.group(cls=CommandGroup)
def ingress() -> None:
    """Configure, show and check hosts, routing and TLS.

    The ingress of an environment routes HTTP and HTTPS requests for its hosts to services.

    \b
    Example:
      devopsellence ingress set --host app.example.com
      devopsellence deploy
      devopsellence ingress check --wait 5m
    """


@ingress.command("set")
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="HOST",
    shell_complete=complete_hosts,
    help="Host name (repeatable, or separated by commas); replaces the current hosts.",
)
@click.option(
    "--service",
    metavar="SERVICE",
    shell_complete=complete_services,
    help="Service that gets the requests.  [default: the web service]",
)
@click.option("--port", metavar="PORT", help="Port of the service, by name.  [default: http]")
@click.option("--path", metavar="PREFIX", help="Path prefix of the requests.  [default: /]")
@click.option(
    "--tls",
    cls=AliasedOption,
    aliases=["--tls-mode"],
    type=click.Choice(["auto", "manual", "off"]),
    help="auto obtains certificates, manual uses installed ones, off serves plain HTTP.",
)
@click.option(
    "--email",
    cls=AliasedOption,
    aliases=["--tls-email"],
    metavar="ADDRESS",
    help="Contact address for the certificate authority.",
)
@click.option(
    "--ca-directory-url",
    cls=AliasedOption,
    aliases=["--acme-ca"],
    metavar="URL",
    help="ACME directory URL.  [default: Let's Encrypt]",
)
@click.option("--redirect-http/--no-redirect-http", default=None, help="Redirect HTTP requests to HTTPS.")
@click.option("--drain-timeout", metavar="TIME", help="Time for open requests to finish on a replaced container.")
@click.option("--dry-run", is_flag=True, help="Show the change to the file; do not write it.")
@environment_option
@pass_output
@click.pass_context
def set_(ctx: click.Context, output: Output, /, hosts: Sequence[str], dry_run: bool, **said: Any) -> None:
    """Set the ingress in devopsellence.yml.

    Only the given options change; comments and the rest of the file stay. With --env, the settings go into the overlay
    of that environment. Run devopsellence deploy to apply them.

    \b
    Example:
      devopsellence ingress set --host app.example.com --email ops@example.com
      devopsellence ingress set --host app.example.com --host api.example.com --dry-run
      devopsellence ingress set --service api --path /api
      devopsellence ingress set --host staging.example.com --tls off --env staging
    """
    from devopsellence import config
    from devopsellence.cli.ingress import edit_config

    path = context.require_config()
    overlay = ""
    if context.environment_flag(ctx):
        identity = config.identity(path)
        default = identity.default_environment
        overlay = context.environment_from_config(ctx, identity.organization, identity.project, default).environment
    names = [name.strip() for host in hosts for name in host.split(",") if name.strip()]
    wanted = edit_config.IngressEdit(hosts=tuple(names), **said)
    if wanted == edit_config.IngressEdit():
        raise CliError("usage", "nothing to set: give an option such as --host app.example.com", exit_code=2)
    before = edit_config.read(path)
    after = edit_config.edit_ingress(before, path, wanted, overlay)
    changed, diff = after != before, edit_config.difference(before, after, path.name)
    if changed and not dry_run:
        edit_config.write(path, after)
    where = f"{path}, environments.{overlay}" if overlay else str(path)
    text = f"No change: {where} already has these settings."
    if changed:
        text = diff if dry_run else f"Wrote {where}. Apply with: devopsellence deploy"
    apply = NextAction("apply the change", f"devopsellence deploy{f' --env {overlay}' if overlay else ''}")
    output.result(
        "ingress set",
        text,
        next_actions=[apply] if changed and not dry_run else [],
        file=str(path),
        environment=overlay or None,
        changed=changed,
        dry_run=dry_run,
        diff=diff,
    )


@ingress.command()
@environment_option
@pass_output
@click.pass_context
def show(ctx: click.Context, output: Output) -> None:
    """Show hosts, rules, nodes and certificates of the ingress.

    \b
    Example:
      devopsellence ingress show
      devopsellence ingress show --env staging -o json
    """
    from devopsellence.cli.ingress.check import no_ingress
    from devopsellence.cli.ingress.show import ingress_json, ingress_text, problems
    from devopsellence.cli.render.ingress import ingress_of
    from devopsellence.cli.store.reader import snapshot

    async def work(etcd: Etcd) -> Snapshot:
        ref = await context.environment(ctx, etcd)
        current = await snapshot(etcd, ref)
        if ingress_of(current) is None:
            raise no_ingress(ref)
        return current

    current, now = context.run(ctx, work), datetime.now(UTC)
    for problem in current.problems:
        output.warning(f"{problem.key} is {problem.reason}")
    output.result(
        "ingress show",
        ingress_text(current, now),
        environment=str(current.ref),
        ingress=ingress_json(current, now),
        problems=problems(current.problems),
    )


@ingress.command()
@click.option(
    "--wait", "seconds", metavar="TIME", callback=duration_seconds, help="Keep retrying for this long (e.g. 5m)."
)
@click.option("--resolver", metavar="ADDRESS", help="DNS server to ask.  [env: DEVOPSELLENCE_DNS]")
@environment_option
@pass_output
@click.pass_context
def check(ctx: click.Context, output: Output, seconds: float, resolver: str | None) -> None:
    """Check DNS, ports, certificates and responses of the ingress.

    The checks run from this machine against each node of the ingress. The exit code is 1 if a check fails.

    \b
    Example:
      devopsellence ingress check
      devopsellence ingress check --wait 5m
      devopsellence ingress check --resolver 1.1.1.1
    """
    from devopsellence.cli.ingress import check_findings
    from devopsellence.cli.ingress.check import IngressCheck
    from devopsellence.cli.ingress.dns import resolver_address

    operation = "ingress check"

    def tell(result: CheckResult) -> None:
        output.progress(operation, result.text(), check=result.document())

    async def work(etcd: Etcd) -> tuple[str, list[CheckResult]]:
        ref = await context.environment(ctx, etcd, Action.LIST_SECRETS)
        ingress_check = IngressCheck(etcd, ref, resolver_address(resolver))
        await ingress_check.all()
        if seconds and check_findings.failed_results(ingress_check.checks):
            for result in check_findings.failed_results(ingress_check.checks):
                tell(result)
            await ingress_check.wait(seconds, tell)
        return str(ref), ingress_check.checks

    ref, checks = context.run(ctx, work)
    failed = check_findings.failed_results(checks)
    summary = check_findings.summary(checks)
    if not output.json:
        output.result(operation, "\n".join([*(check.text() for check in checks), f"Ingress of {ref}: {summary}"]))
    elif not failed:
        steps = [action for check in checks for action in check.next_actions]
        output.result(
            operation, None, environment=ref, checks=[check.document() for check in checks], next_actions=steps
        )
    if failed:
        findings = [check.finding() for check in checks if check.severity != "ok"] if output.json else []
        raise CliError("ingress_unwell", f"the ingress of {ref} has problems: {summary}", findings=findings)


ingress.add_command(cert)
