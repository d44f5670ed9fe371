"""``node label``: the labels of nodes, which decide the kinds of service on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from devopsellence.cli import context
from devopsellence.cli.commands.complete import complete_labels, complete_nodes
from devopsellence.cli.groups import CommandGroup
from devopsellence.cli.output import CliError, NextAction, Output, pass_output

if TYPE_CHECKING:
    from devopsellence.cli.nodes.relabel import RelabelPreview
    from devopsellence.store.etcd import Etcd

F = TypeVar("F", bound=Callable[..., Any])
Edit = Callable[[list[str]], list[str]]
LABELS_HELP = "Comma-separated labels: web, worker."

_dry_run_option = click.option("--dry-run", is_flag=True, help="Show which services would move; do not change labels.")
_force_option = click.option("--force", is_flag=True, help="Proceed even if a service has no node left.")


def _labels_arguments(command: F) -> F:
    """Add the labels of ``set`` and ``remove``: as ``--labels web,worker``, or as arguments after the node."""
    decorators: list[Callable[[F], F]] = [
        click.argument("more", nargs=-1, metavar="[LABEL]...", shell_complete=complete_labels),
        click.argument("name", shell_complete=complete_nodes),
        click.option("--labels", metavar="LABELS", shell_complete=complete_labels, help=LABELS_HELP),
    ]
    for decorate in decorators:
        command = decorate(command)
    return command


def _text_of(labels: str | None, more: Sequence[str]) -> str:
    """Return the labels of the command line, separated by commas.

    Raises:
        UsageError: there is none.
    """
    if not labels and not more:
        raise click.UsageError("Give at least one label, such as --labels web,worker.")
    return ",".join([*([labels] if labels else []), *more])


@click.group(cls=CommandGroup)
def label() -> None:
    """Set, remove and list the labels of nodes.

    The labels of a node decide which services it runs: web, worker or both.

    \b
    Example:
      devopsellence node label set prod-1 --labels web,worker
    """


@label.command("set")
@_labels_arguments
@_dry_run_option
@_force_option
@pass_output
@click.pass_context
def set_(
    ctx: click.Context, output: Output, name: str, labels: str | None, more: Sequence[str], dry_run: bool, force: bool
) -> None:
    """Replace all labels of a node.

    Prints which services start and stop on the node.

    \b
    Example:
      devopsellence node label set prod-1 --labels web,worker
      devopsellence node label set prod-1 --labels web --dry-run
    """
    from devopsellence.cli.nodes import registry

    wanted = registry.parse_labels(_text_of(labels, more))
    again = f"devopsellence node label set {name} --labels {','.join(wanted)} --force"
    _change(ctx, output, name, lambda _: wanted, again, dry_run=dry_run, force=force)


@label.command()
@_labels_arguments
@_dry_run_option
@_force_option
@pass_output
@click.pass_context
def remove(
    ctx: click.Context, output: Output, name: str, labels: str | None, more: Sequence[str], dry_run: bool, force: bool
) -> None:
    """Remove labels from a node.

    Prints which services stop on the node.

    \b
    Example:
      devopsellence node label remove prod-1 --labels worker
      devopsellence node label remove prod-1 worker
    """
    unwanted = [label.strip() for label in _text_of(labels, more).split(",") if label.strip()]

    def without(present: list[str]) -> list[str]:
        for label in unwanted:
            if label not in present:
                action = NextAction("list the labels", f"devopsellence node label list {name}")
                raise CliError("label_unknown", f"node {name} has no label {label!r}", next_actions=[action])
        return [label for label in present if label not in unwanted]

    again = f"devopsellence node label remove {name} --labels {','.join(unwanted)} --force"
    _change(ctx, output, name, without, again, dry_run=dry_run, force=force)


@label.command("list")
@click.argument("name", required=False, shell_complete=complete_nodes)
@pass_output
@click.pass_context
def list_(ctx: click.Context, output: Output, name: str | None) -> None:
    """List the labels of nodes.

    Without NAME, lists all nodes.

    \b
    Example:
      devopsellence node label list
    """
    from devopsellence.cli import errors
    from devopsellence.cli.nodes import registry
    from devopsellence.cli.util.text import columns

    overview, _ = context.run(ctx, registry.overview)
    shown = [entry.node for entry in overview if name in (None, entry.name) and entry.node is not None]
    if name is not None and not shown:
        raise errors.node_unknown(name)
    text = columns(("NODE", "LABELS"), [[node.name, ",".join(node.labels) or "-"] for node in shown])
    output.result("node label list", text, nodes={node.name: list(node.labels) for node in shown})


def _change(
    ctx: click.Context, output: Output, name: str, edit: Edit, again: str, *, dry_run: bool, force: bool
) -> None:
    """Show the services to be moved by ``edit``, then apply it; ``again`` is the same command with ``--force``."""
    from devopsellence.cli.nodes import registry, relabel

    async def work(etcd: Etcd) -> RelabelPreview:
        preview = await relabel.preview_relabel(etcd, name, edit)
        for problem in preview.problems:
            output.warning(f"{problem.key} is {problem.reason}: its services are not shown")
        refused = None if force else relabel.refusal(preview, again)
        if not dry_run:
            if refused is not None:
                raise refused
            for move in preview.moves:
                output.line(move.text())
            await registry.relabel(etcd, name, edit)
        elif refused is not None:
            output.warning(f"this would be refused without --force: {refused.message}")
        return preview

    preview = context.run(ctx, work)
    output.result(
        output.operation,
        _text(preview, dry_run=dry_run),
        node=name,
        labels=list(preview.after.labels),
        moves=[move.document() for move in preview.moves],
        dry_run=dry_run,
    )


def _text(preview: RelabelPreview, *, dry_run: bool) -> str:
    labels = ", ".join(preview.after.labels) or "(none)"
    if not dry_run:
        return f"Node {preview.after.name} has the labels {labels}."
    moves = [move.text() for move in preview.moves]
    if preview.after.cordoned and not moves:
        moves = [f"Nothing moves: node {preview.after.name} is cordoned and keeps its services."]
    return "\n".join([*(moves or ["Nothing moves."]), f"Node {preview.after.name} would have the labels {labels}."])
