"""``node``: the machines, what kinds of service they run, and for which environments."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from devopsellence.cli import context
from devopsellence.cli.options import environment_option
from devopsellence.cli.output import CliError, NextAction, Output, pass_output

if TYPE_CHECKING:
    from devopsellence.api.v1.stored_pb2 import Environment, Node
    from devopsellence.store.etcd import Etcd

_LABELS_HELP = "Kinds of service that it runs: web, worker, separated by commas."


@click.group()
def node() -> None:
    """Register machines, label them, and attach them to environments.

    \b
    Example:
      devopsellence node register prod-1 --labels web,worker
      devopsellence node attach prod-1 --env production
    """


@node.command()
@click.argument("name")
@click.option("--labels", default="web", show_default=True, metavar="LABELS", help=_LABELS_HELP)
@click.option("--address", default="", metavar="ADDRESS", help="Where other nodes and you reach it.")
@pass_output
@click.pass_context
def register(ctx: click.Context, output: Output, name: str, labels: str, address: str) -> None:
    """Make a node known under NAME, and print the uid that its agent is started with.

    Registering it again in the same way prints the same uid.

    \b
    Example:
      devopsellence node register prod-1 --labels web,worker --address 10.0.0.5
    """
    from devopsellence.cli import nodes

    kinds = nodes.parse_labels(labels)
    # Where certificates are the credential, etcd's access control must know the new node's.
    grant = context.connection(ctx).cert is not None
    found = context.run(ctx, lambda etcd: nodes.register(etcd, name, kinds, address, grant=grant))
    agent = f"devopsellence-agent --node {name} --node-uid {found.uid} --state-dir /var/lib/devopsellence"
    text = (
        f"Node {name} is registered: uid {found.uid}, labels {','.join(found.labels)}.\n"
        f"Next, on that machine: {agent}\n"
        f"Then here: devopsellence node attach {name}"
    )
    output.result("node register", text, **nodes.document(found), agent_command=agent)


@node.command("list")
@pass_output
@click.pass_context
def list_(ctx: click.Context, output: Output) -> None:
    """List the nodes, whether their agents are there, and the environments that they are attached to.

    \b
    Example:
      devopsellence node list -o json
    """
    from devopsellence.cli import nodes
    from devopsellence.cli.view.words import columns

    overview, problems = context.run(ctx, nodes.overview)
    for problem in problems:
        output.warning(f"{problem.key} is {problem.reason}")
    header = ("NODE", "LABELS", "ADDRESS", "AGENT", "DOCKER", "ENVIRONMENTS", "NOTE")
    table = [nodes.cells(each) for each in overview]
    text = columns(header, table) if table else "No node is registered; run devopsellence node register <name>."
    output.result(
        "node list",
        text,
        nodes=[nodes.overview_document(each) for each in overview],
        problems=[{"key": problem.key, "reason": problem.reason} for problem in problems],
    )


@node.command()
@click.argument("name")
@environment_option
@pass_output
@click.pass_context
def attach(ctx: click.Context, output: Output, name: str) -> None:
    """Let a node run the services of an environment whose kind is among its labels.

    \b
    Example:
      devopsellence node attach prod-1 --env production
    """
    from devopsellence.cli import nodes

    async def work(etcd: Etcd) -> Environment:
        return await nodes.attach(etcd, await context.environment(ctx, etcd), name)

    environment = context.run(ctx, work)
    _attached(output, "node attach", environment, f"Node {name} is attached to {_path(environment)}.")


@node.command()
@click.argument("name")
@environment_option
@pass_output
@click.pass_context
def detach(ctx: click.Context, output: Output, name: str) -> None:
    """Take an environment away from a node: its containers go, its volumes stay.

    \b
    Example:
      devopsellence node detach prod-1 --env staging
    """
    from devopsellence.cli import nodes

    async def work(etcd: Etcd) -> Environment:
        return await nodes.detach(etcd, await context.environment(ctx, etcd), name)

    environment = context.run(ctx, work)
    text = f"Node {name} is detached from {_path(environment)}; its containers there are removed, its volumes stay."
    _attached(output, "node detach", environment, text)


@node.group()
def label() -> None:
    """Which kinds of service nodes run: web, worker.

    \b
    Example:
      devopsellence node label set prod-1 --labels web,worker
    """


@label.command("set")
@click.argument("name")
@click.option("--labels", required=True, metavar="LABELS", help=_LABELS_HELP + " Replaces all.")
@pass_output
@click.pass_context
def set_(ctx: click.Context, output: Output, name: str, labels: str) -> None:
    """Replace all labels of a node.

    \b
    Example:
      devopsellence node label set prod-1 --labels web,worker
    """
    from devopsellence.cli import nodes

    wanted = nodes.parse_labels(labels)
    _labelled(output, "node label set", context.run(ctx, lambda etcd: nodes.relabel(etcd, name, lambda _: wanted)))


@label.command()
@click.argument("name")
@click.argument("label_name", metavar="LABEL")
@pass_output
@click.pass_context
def remove(ctx: click.Context, output: Output, name: str, label_name: str) -> None:
    """Take one label from a node.

    \b
    Example:
      devopsellence node label remove prod-1 worker
    """
    from devopsellence.cli import nodes

    def without(labels: list[str]) -> list[str]:
        if label_name not in labels:
            action = NextAction("see which it has", f"devopsellence node label list {name}")
            raise CliError("label_unknown", f"node {name} has no label {label_name!r}", next_actions=[action])
        return [each for each in labels if each != label_name]

    _labelled(output, "node label remove", context.run(ctx, lambda etcd: nodes.relabel(etcd, name, without)))


@label.command("list")
@click.argument("name", required=False)
@pass_output
@click.pass_context
def label_list(ctx: click.Context, output: Output, name: str | None) -> None:
    """List the labels of all nodes, or of one.

    \b
    Example:
      devopsellence node label list
    """
    from devopsellence.cli import nodes
    from devopsellence.cli.view.words import columns

    overview, _ = context.run(ctx, nodes.overview)
    shown = [each.node for each in overview if name in (None, each.name) and each.node is not None]
    if name is not None and not shown:
        raise nodes.unknown(name)
    text = columns(("NODE", "LABELS"), [[each.name, ",".join(each.labels) or "-"] for each in shown])
    output.result("node label list", text, nodes={each.name: list(each.labels) for each in shown})


def _attached(output: Output, operation: str, environment: Environment, text: str) -> None:
    output.result(operation, text, environment=_path(environment), nodes=list(environment.nodes))


def _labelled(output: Output, operation: str, found: Node) -> None:
    text = f"Node {found.name} has the labels {', '.join(found.labels) or '(none)'}."
    output.result(operation, text, node=found.name, labels=list(found.labels))


def _path(environment: Environment) -> str:
    return f"{environment.organization}/{environment.project}/{environment.environment}"
