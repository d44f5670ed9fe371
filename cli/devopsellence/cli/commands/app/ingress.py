"""``ingress``: what is reachable from outside, its certificates, and whether it works."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from devopsellence.cli import context
from devopsellence.cli.commands.app.ingress_cert import cert
from devopsellence.cli.options import duration_seconds, environment_option
from devopsellence.cli.output import CliError, Output, pass_output

if TYPE_CHECKING:
    from devopsellence.cli.output import CheckResult
    from devopsellence.cli.store.snapshot import Snapshot
    from devopsellence.store.etcd import Etcd


@click.group()
def ingress() -> None:
    """Hosts that lead to services from outside: set them, look at them, check that they work.

    \b
    Example:
      devopsellence ingress set --host app.example.com
      devopsellence deploy
      devopsellence ingress check --wait 5m
    """


@ingress.command("set")
@click.option("--host", "hosts", multiple=True, metavar="HOST", help="A host; those given replace those before.")
@click.option("--service", metavar="SERVICE", help="Where requests go.  [default: the web service]")
@click.option("--port", metavar="PORT", help="The name of one of its ports.  [default: http]")
@click.option("--path", metavar="PREFIX", help="Only requests whose path begins so.  [default: /]")
@click.option("--tls", type=click.Choice(["auto", "manual", "off"]), help="Where certificates come from.")
@click.option("--email", metavar="ADDRESS", help="Where the certificate authority writes to.")
@click.option("--ca-directory-url", metavar="URL", help="Another ACME directory than Let's Encrypt's.")
@click.option("--redirect-http/--no-redirect-http", default=None, help="Lead plain HTTP to HTTPS.")
@click.option("--drain-timeout", metavar="TIME", help="How long requests under way may take on a replaced container.")
@click.option("--dry-run", is_flag=True, help="Only show what would change in the file.")
@environment_option
@pass_output
@click.pass_context
def set_(ctx: click.Context, output: Output, /, hosts: Sequence[str], dry_run: bool, **said: Any) -> None:
    """Write the ingress into devopsellence.yml; comments and the rest of the file stay. A deploy brings it to effect.

    With --env it goes into that environment's overlay. What is not said stays as it is.

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
    wanted = edit_config.Wanted(hosts=tuple(hosts), **said)
    if wanted == edit_config.Wanted():
        raise CliError("usage", "say what is to be set, such as --host app.example.com", exit_code=2)
    before = path.read_text(encoding="utf-8")
    after = edit_config.edited(before, path, wanted, overlay)
    changed, diff = after != before, edit_config.difference(before, after, path.name)
    if changed and not dry_run:
        edit_config.write(path, after)
    where = f"{path}, environments.{overlay}" if overlay else str(path)
    text = f"{where} says so already; nothing was written."
    if changed:
        text = diff if dry_run else f"Wrote {where}. devopsellence deploy brings it to effect."
    output.result(
        "ingress set", text, file=str(path), environment=overlay or None, changed=changed, dry_run=dry_run, diff=diff
    )


@ingress.command()
@environment_option
@pass_output
@click.pass_context
def show(ctx: click.Context, output: Output) -> None:
    """Show what is routed: hosts, rules, the nodes that serve it, certificates and what becomes of them.

    \b
    Example:
      devopsellence ingress show
      devopsellence ingress show --env staging -o json
    """
    from devopsellence.cli.ingress import check as checking
    from devopsellence.cli.ingress import show as showing
    from devopsellence.cli.render import ingress as view
    from devopsellence.cli.store.reader import snapshot

    async def work(etcd: Etcd) -> Snapshot:
        ref = await context.environment(ctx, etcd)
        seen = await snapshot(etcd, ref)
        if view.ingress_of(seen) is None:
            raise checking.none(ref)
        return seen

    seen, now = context.run(ctx, work), datetime.now(UTC)
    for problem in seen.problems:
        output.warning(f"{problem.key} is {problem.reason}")
    output.result(
        "ingress show",
        showing.ingress_text(seen, now),
        environment=str(seen.ref),
        ingress=showing.ingress_json(seen, now),
        problems=showing.problems(seen.problems),
    )


@ingress.command()
@click.option(
    "--wait", "seconds", metavar="TIME", callback=duration_seconds, help="Look again until all is well, as 5m."
)
@click.option("--resolver", metavar="ADDRESS", help="Whom to ask for names.  [env: DEVOPSELLENCE_DNS]")
@environment_option
@pass_output
@click.pass_context
def check(ctx: click.Context, output: Output, seconds: float, resolver: str | None) -> None:
    """Look at everything from here to the app: names, ports, certificates, answers, on each node that serves it.

    Exit code 1 if something fails.

    \b
    Example:
      devopsellence ingress check
      devopsellence ingress check --wait 5m
      devopsellence ingress check --resolver 1.1.1.1
    """
    from devopsellence.cli.ingress import check_findings
    from devopsellence.cli.ingress.check import Checking
    from devopsellence.cli.ingress.dns import chosen

    operation = "ingress check"

    def tell(found: CheckResult) -> None:
        output.progress(operation, found.text(), check=found.document())

    async def work(etcd: Etcd) -> tuple[str, list[CheckResult]]:
        ref = await context.environment(ctx, etcd)
        checking = Checking(etcd, ref, chosen(resolver))
        await checking.all()
        if seconds and check_findings.failed(checking.checks):
            for each in check_findings.failed(checking.checks):
                tell(each)
            await checking.wait(seconds, tell)
        return str(ref), checking.checks

    ref, checks = context.run(ctx, work)
    failed = check_findings.failed(checks)
    summary = check_findings.summary(checks)
    if not output.json:
        output.result(operation, "\n".join([*(check.text() for check in checks), f"Ingress of {ref}: {summary}"]))
    elif not failed:
        output.result(operation, None, environment=ref, checks=[each.document() for each in checks])
    if failed:
        findings = [each.finding() for each in checks if each.severity != "ok"] if output.json else []
        raise CliError(
            "ingress_unwell", f"the ingress of {ref} does not work as it should: {summary}", findings=findings
        )


ingress.add_command(cert)
