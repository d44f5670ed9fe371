"""``node label``: which kinds of service nodes run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from devopsellence.cli import context
from devopsellence.cli.output import CliError, NextAction, Output, pass_output

if TYPE_CHECKING:
    from devopsellence.cli.nodes.relabel import Preview
    from devopsellence.store.etcd import Etcd

Edit = Callable[[list[str]], list[str]]
LABELS_HELP = "Kinds of service that it runs: web, worker, separated by commas."

_dry_run_option = click.option("--dry-run", is_flag=True, help="Only show what would move.")
_force_option = click.option("--force", is_flag=True, help="Also when a service runs nowhere then.")


@click.group()
def label() -> None:
    """Which kinds of service nodes run: web, worker.

    \b
    Example:
      devopsellence node label set prod-1 --labels web,worker
    """


@label.command("set")
@click.argument("name")
@click.option("--labels", required=True, metavar="LABELS", help=f"{LABELS_HELP} Replaces all.")
@_dry_run_option
@_force_option
@pass_output
@click.pass_context
def set_(ctx: click.Context, output: Output, name: str, labels: str, dry_run: bool, force: bool) -> None:
    """Replace all labels of a node; says first which services start and stop there.

    \b
    Example:
      devopsellence node label set prod-1 --labels web,worker
      devopsellence node label set prod-1 --labels web --dry-run
    """
    from devopsellence.cli.nodes import registry

    wanted = registry.parse_labels(labels)
    again = f"devopsellence node label set {name} --labels {','.join(wanted)} --force"
    _change(ctx, output, name, lambda _: wanted, again, dry_run=dry_run, force=force)


@label.command()
@click.argument("name")
@click.argument("label_name", metavar="LABEL")
@_dry_run_option
@_force_option
@pass_output
@click.pass_context
def remove(ctx: click.Context, output: Output, name: str, label_name: str, dry_run: bool, force: bool) -> None:
    """Take one label from a node; says first which services stop there.

    \b
    Example:
      devopsellence node label remove prod-1 worker
    """

    def without(labels: list[str]) -> list[str]:
        if label_name not in labels:
            action = NextAction("see which it has", f"devopsellence node label list {name}")
            raise CliError("label_unknown", f"node {name} has no label {label_name!r}", next_actions=[action])
        return [each for each in labels if each != label_name]

    again = f"devopsellence node label remove {name} {label_name} --force"
    _change(ctx, output, name, without, again, dry_run=dry_run, force=force)


@label.command("list")
@click.argument("name", required=False)
@pass_output
@click.pass_context
def list_(ctx: click.Context, output: Output, name: str | None) -> None:
    """List the labels of all nodes, or of one.

    \b
    Example:
      devopsellence node label list
    """
    from devopsellence.cli import errors
    from devopsellence.cli.nodes import registry
    from devopsellence.cli.util.text import columns

    overview, _ = context.run(ctx, registry.overview)
    shown = [each.node for each in overview if name in (None, each.name) and each.node is not None]
    if name is not None and not shown:
        raise errors.node_unknown(name)
    text = columns(("NODE", "LABELS"), [[each.name, ",".join(each.labels) or "-"] for each in shown])
    output.result("node label list", text, nodes={each.name: list(each.labels) for each in shown})


def _change(
    ctx: click.Context, output: Output, name: str, edit: Edit, again: str, *, dry_run: bool, force: bool
) -> None:
    """Show what ``edit`` moves, then do it; ``again`` is the same command with ``--force``."""
    from devopsellence.cli.nodes import registry, relabel

    async def work(etcd: Etcd) -> Preview:
        found = await relabel.preview(etcd, name, edit)
        for problem in found.problems:
            output.warning(f"{problem.key} is {problem.reason}: what moves there is not shown")
        refused = None if force else relabel.refusal(found, again)
        if not dry_run:
            if refused is not None:
                raise refused
            for move in found.moves:
                output.line(move.text())
            await registry.relabel(etcd, name, edit)
        elif refused is not None:
            output.warning(f"this would be refused without --force: {refused.message}")
        return found

    found = context.run(ctx, work)
    output.result(
        output.operation,
        _text(found, dry_run=dry_run),
        node=name,
        labels=list(found.after.labels),
        moves=[move.document() for move in found.moves],
        dry_run=dry_run,
    )


def _text(found: Preview, *, dry_run: bool) -> str:
    labels = ", ".join(found.after.labels) or "(none)"
    if not dry_run:
        return f"Node {found.after.name} has the labels {labels}."
    moves = [move.text() for move in found.moves]
    if found.after.cordoned and not moves:
        moves = [f"Nothing moves: {found.after.name} is cordoned and keeps what it runs."]
    return "\n".join([*(moves or ["Nothing moves."]), f"Node {found.after.name} would have the labels {labels}."])
