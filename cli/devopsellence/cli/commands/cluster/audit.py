"""``audit``: who did what in the cluster, and what was refused, from the audit trails of all gateways."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import click

from devopsellence.cli import context
from devopsellence.cli.commands.complete import complete_nodes, complete_operators
from devopsellence.cli.options import environment_option, global_flags
from devopsellence.cli.output import CliError, NextAction, Output, pass_output

if TYPE_CHECKING:
    from devopsellence.api.v1.audit_pb2 import AuditEntry, AuditRequest
    from devopsellence.cli.audit.client import GatewayAnswer
    from devopsellence.store.etcd import Etcd

OPERATION: Final = "audit"
_MOST: Final = 10_000
#: Time before the newest entry from which on entries are followed: some may have been on their way to the disk.
_OVERLAP_NANOS: Final = 10**9


def _moment(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    from devopsellence.cli.agent.since import parse_since

    try:
        return parse_since(value, datetime.now(UTC))
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command()
@environment_option
@click.option("--since", metavar="TIME", callback=_moment, help="Only entries since 2h, 7d or 2026-11-29.")
@click.option("--until", metavar="TIME", callback=_moment, help="Only entries before that time.")
@click.option(
    "--by", metavar="NAME", shell_complete=complete_operators, help="Only calls of this operator, root or controller."
)
@click.option("--node", metavar="NODE", shell_complete=complete_nodes, help="Only calls to, about or by this node.")
@click.option("--refused", is_flag=True, help="Only what was refused.")
@click.option(
    "--limit",
    "-n",
    type=click.IntRange(0, _MOST),
    default=1000,
    show_default=True,
    help="Number of entries, the newest; 0: all.",
)
@click.option("--follow", "-f", is_flag=True, help="Keep showing new entries; press Ctrl-C to stop.")
@pass_output
@click.pass_context
def audit(
    ctx: click.Context,
    output: Output,
    since: int | None,
    until: int | None,
    by: str | None,
    node: str | None,
    refused: bool,
    limit: int,
    follow: bool,
) -> None:
    """Show who did what in the cluster, and what was refused.

    Entries are about writes and reads of secrets at the gateways, and about logs, commands, tasks and images at the
    nodes. Callers are named by their certificates. An entry with a node is reported by that node; all others are
    recorded by a gateway. An admin sees the entries about its environments, an admin of all environments everything,
    every operator its own calls. Arguments of commands are shown without the values of secrets known to the node; what
    is typed in a session is not recorded.

    \b
    Example:
      devopsellence audit --since 24h
      devopsellence audit --by ann --env acme/shop/production
      devopsellence audit --refused --since 7d -o json
      devopsellence audit --follow
    """
    from devopsellence.api.v1.audit_pb2 import AuditRequest

    request = AuditRequest(caller=_caller(by), node=node or "", refused=refused, limit=limit)
    if since is not None:
        request.since.FromNanoseconds(since)
    if until is not None:
        request.until.FromNanoseconds(until)
    if follow and until is not None:
        raise click.UsageError("--until and --follow exclude each other")
    if follow:
        context.run(ctx, lambda etcd: _follow(ctx, etcd, output, request))
    else:
        context.run(ctx, lambda etcd: _show(ctx, etcd, output, request))


def _caller(by: str | None) -> str:
    """Return the name in the certificates of an operator, root or the controllers; a full name stays as it is."""
    from devopsellence.agent_identity import OPERATOR_PREFIX
    from devopsellence.store.identities import USER_CONTROLLER, USER_OPERATOR

    if not by or by in (USER_CONTROLLER, USER_OPERATOR) or ":" in by:
        return by or ""
    return f"{OPERATOR_PREFIX}{by}"


async def _show(ctx: click.Context, etcd: Etcd, output: Output, request: AuditRequest) -> None:
    from devopsellence.cli.audit import client, render
    from devopsellence.cli.audit.merge import merged
    from devopsellence.cli.util.text import columns

    await _prepare(ctx, etcd, output, request)
    answers = await client.ask_all(etcd.settings, await client.gateways(etcd), request)
    _check(answers)
    for answer in answers:
        if answer.problem:
            output.warning(f"entries of the gateway at {answer.address} are missing: {answer.problem}")
    entries = merged(entry for answer in answers for entry in answer.entries)
    shown = entries[-request.limit :] if request.limit else entries
    if request.limit and len(shown) == request.limit:
        output.note(f"Only the newest {request.limit} entries are shown; for more, use --limit or --until.")
    text = columns(render.HEADER, [render.row(entry) for entry in shown]) if shown else "No entries."
    output.result(
        OPERATION,
        text,
        entries=[render.document(entry) for entry in shown],
        complete=not any(answer.problem for answer in answers),
        gateways=[
            {"address": answer.address, "answered": answer.code is None, "problem": answer.problem}
            for answer in answers
        ],
    )


async def _follow(ctx: click.Context, etcd: Etcd, output: Output, request: AuditRequest) -> None:
    from devopsellence.cli.audit import client, render
    from devopsellence.cli.audit.merge import KnownEntries
    from devopsellence.cli.untrusted import safe

    await _prepare(ctx, etcd, output, request)
    known = KnownEntries()

    def show(entries: Sequence[AuditEntry]) -> None:
        for entry in entries:
            output.line("  ".join(safe(cell) for cell in render.row(entry) if cell))
            output.event(OPERATION, "progress", **render.document(entry))

    def say(address: str, problem: str) -> None:
        output.warning(f"the gateway at {address}: {problem or 'answers again'}")

    answers = await client.ask_all(etcd.settings, await client.gateways(etcd), request)
    entries = known.new(entry for answer in answers for entry in answer.entries)
    show(entries[-request.limit :] if request.limit else entries)
    requests = {answer.address: _later(request, answer) for answer in answers}
    _check(await client.follow(etcd.settings, requests, lambda found: show(known.new(found)), say))


def _later(request: AuditRequest, answer: GatewayAnswer) -> AuditRequest:
    """Return the request for what a gateway stores after its answer, by its own clock if that is known."""
    from devopsellence import clock
    from devopsellence.api.v1.audit_pb2 import AuditRequest

    later = AuditRequest()
    later.CopyFrom(request)
    later.follow, later.limit = True, 0
    if answer.entries:
        later.since.FromNanoseconds(max(entry.at.ToNanoseconds() for entry in answer.entries) - _OVERLAP_NANOS)
    elif answer.code is not None:
        later.since.FromNanoseconds(int(clock.now().wall * 1e9))
    return later


async def _prepare(ctx: click.Context, etcd: Etcd, output: Output, request: AuditRequest) -> None:
    """Complete the request with the environment, and say what the operator does not see."""
    from devopsellence.access.patterns import ANY
    from devopsellence.access.roles import Action
    from devopsellence.cli.store.rights import own_rights

    if global_flags(ctx).get("environment"):
        request.environment = str(await context.environment(ctx, etcd))
    rights = await own_rights(etcd)
    if rights is None or rights.permit(Action.READ_AUDIT, ANY):
        return
    patterns = rights.patterns(Action.READ_AUDIT)
    seen = f"your own calls, and calls about {', '.join(patterns)}" if patterns else "your own calls"
    output.note(f"Shown are {seen}; others need the role admin.")


def _check(answers: Sequence[GatewayAnswer]) -> None:
    """Check that a gateway has answered.

    Raises:
        CliError: ``audit_unavailable``: none has.
    """
    if any(answer.code is None for answer in answers):
        return
    reasons = "; ".join(dict.fromkeys(f"{answer.address}: {answer.problem}" for answer in answers))
    action = NextAction("check the setup", "devopsellence doctor")
    raise CliError("audit_unavailable", f"no gateway shows its audit trail: {reasons}", next_actions=[action])
