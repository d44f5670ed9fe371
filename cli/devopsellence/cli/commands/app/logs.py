"""``logs``: the logs of services, merged from all nodes."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

from devopsellence.cli import context
from devopsellence.cli.commands.complete import complete_nodes, complete_services
from devopsellence.cli.options import AliasedOption, environment_option
from devopsellence.cli.output import Output, pass_output
from devopsellence.cli.signals import number_of

if TYPE_CHECKING:
    from devopsellence.cli.agent.log_render import LineRenderer
    from devopsellence.cli.agent.select import LogSource
    from devopsellence.store.etcd import Etcd
    from devopsellence.store.keys import EnvironmentRef

OPERATION: Final = "logs"


@dataclass(frozen=True)
class _Options:
    """Parsed options of ``logs``; ``lines`` -1 means all, ``since`` is in nanoseconds since 1970."""

    services: list[str]
    nodes: tuple[str, ...]
    follow: bool
    lines: int
    since: int | None
    color: bool
    timestamps: bool


def _since(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    from devopsellence.cli.agent import since

    try:
        return since.parse_since(value, datetime.now(UTC)) if value is not None else None
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _lines(_ctx: click.Context, _param: click.Parameter, value: str) -> int:
    if value == "all":
        return -1
    if value.isascii() and value.isdigit() and int(value) < 2**31:
        return int(value)
    raise click.BadParameter(f"{value!r} is neither a number of lines nor 'all'")


@click.command()
@click.argument("services", metavar="[SERVICE]...", nargs=-1, shell_complete=complete_services)
@click.option("--follow", "-f", is_flag=True, help="Follow the log; press Ctrl-C to stop.")
@click.option(
    "--node",
    "nodes",
    multiple=True,
    metavar="NODE",
    shell_complete=complete_nodes,
    help="Filter by node (repeatable).",
)
@click.option(
    "--lines",
    "-n",
    cls=AliasedOption,
    aliases=["--tail"],
    default="100",
    show_default=True,
    callback=_lines,
    metavar="N",
    help="Number of recent lines of each service, or 'all'.",
)
@click.option("--since", callback=_since, metavar="TIME", help="Show lines since: 5m, 1h30m, or an RFC 3339 time.")
@click.option("--timestamps", is_flag=True, help="Prefix each line with its timestamp.")
@environment_option
@pass_output
@click.pass_context
def logs(
    ctx: click.Context,
    output: Output,
    services: tuple[str, ...],
    follow: bool,
    nodes: tuple[str, ...],
    lines: int,
    since: int | None,
    timestamps: bool,
) -> None:
    """Show the logs of services, from all nodes.

    Without SERVICE, shows the logs of all services. Lines are ordered by time and prefixed with node and service,
    unless all of them come from a single service on a single node. On a terminal, control characters are made visible;
    in a pipe, the bytes are unchanged.

    \b
    Example:
      devopsellence logs
      devopsellence logs web worker --follow
      devopsellence logs web --node prod-1 --since 5m --lines all
    """
    options = _Options(sorted(set(services)), nodes, follow, lines, since, output.color, timestamps)
    try:
        context.run(ctx, lambda etcd: _show(ctx, etcd, output, options))
    except KeyboardInterrupt as error:
        # Ctrl-C is the way to stop --follow.
        ctx.exit(128 + number_of(error))


async def _show(ctx: click.Context, etcd: Etcd, output: Output, options: _Options) -> None:
    from devopsellence.cli.agent.locate import read_agents
    from devopsellence.cli.agent.logs import LogPrinter, LogQuery
    from devopsellence.cli.agent.select import log_sources
    from devopsellence.cli.agent.stdio import StdioWriter

    ref = await context.environment(ctx, etcd)
    sources = log_sources(await read_agents(etcd, ref, options.nodes), options.services)
    if output.json:
        output.event(OPERATION, "started", **_document(ref, sources))
    run = LogPrinter(output, StdioWriter(sys.stdout), _renderer(output, options, sources))
    wanted = LogQuery(str(ref), options.follow, options.lines, options.since)
    await run.show(context.connection(ctx), sources, wanted, services=options.services)
    problems = [{"code": problem.code, "message": problem.message} for problem in run.problems]
    output.result(OPERATION, None, **_document(ref, sources), problems=problems)


def _renderer(output: Output, options: _Options, sources: list[LogSource]) -> LineRenderer:
    from devopsellence.cli.agent.log_render import JsonRenderer, TextRenderer

    if output.json:
        return JsonRenderer(OPERATION)
    pairs = [(source.agent.node, service) for source in sources for service in source.services]
    # Without SERVICE, containers of further services may appear while following.
    alone = len(pairs) == 1 and (bool(options.services) or not options.follow)
    return TextRenderer(
        pairs, prefix=not alone, terminal=output.is_tty, color=options.color, timestamps=options.timestamps
    )


def _document(ref: EnvironmentRef, sources: list[LogSource]) -> dict[str, Any]:
    documents = [{"node": source.agent.node, "services": list(source.services)} for source in sources]
    return {"environment": str(ref), "sources": documents}
