"""``node``: the machines, what kinds of service they run, and for which environments."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from devopsellence.cli import context
from devopsellence.cli.commands.cluster.cluster import pki_option
from devopsellence.cli.commands.cluster.node_diagnose import diagnose
from devopsellence.cli.commands.cluster.node_drain import RENEW, drain, exposure, exposure_document, remove
from devopsellence.cli.commands.cluster.node_label import LABELS_HELP, label
from devopsellence.cli.options import environment_option
from devopsellence.cli.output import Output, pass_output

if TYPE_CHECKING:
    from devopsellence.api.v1.stored_pb2 import Environment
    from devopsellence.cli.nodes.register import Registered
    from devopsellence.cli.secrets.access import Exposure, ReencryptResult
    from devopsellence.cli.secrets.records import SecretId
    from devopsellence.store.etcd import Etcd


@click.group()
def node() -> None:
    """Register machines, label them, attach them to environments, empty and remove them.

    \b
    Example:
      devopsellence node register prod-1 --labels web,worker
      devopsellence node attach prod-1 --env production
    """


@node.command()
@click.argument("name")
@click.option("--labels", metavar="LABELS", help=f"{LABELS_HELP}  [default: web]")
@click.option("--address", metavar="ADDRESS", help="Where other nodes and you reach it.")
@click.option("--replace", is_flag=True, help="Another machine takes this name; the one before is shut out.")
@pki_option
@pass_output
@click.pass_context
def register(
    ctx: click.Context,
    output: Output,
    name: str,
    labels: str | None,
    address: str | None,
    replace: bool,
    pki: str | None,
) -> None:
    """Make a node known under NAME, and say how its agent is started.

    Where the cluster's authority is at hand, the node's certificate is made as well. Registering it again in the same
    way prints the same. With --replace another machine takes its place: labels, address and environments stay.

    \b
    Example:
      devopsellence node register prod-1 --labels web,worker --address 10.0.0.5
      devopsellence node register prod-1 --replace
    """
    from devopsellence.cli.cluster import join
    from devopsellence.cli.cluster.folder import ClusterFolder
    from devopsellence.cli.nodes import register as registering
    from devopsellence.cli.nodes import registry
    from devopsellence.cli.util.addresses import check_host
    from devopsellence.store.keys import check_name

    check_name("node", name)
    said = registering.Said(
        name,
        registry.parse_labels(labels) if labels is not None else None,
        check_host(address) if address else address,
    )
    settings = context.connection(ctx)
    # Where certificates are the credential, etcd's access control must know the new node's.
    grant = settings.cert is not None
    how = registering.replace if replace else registering.register
    found = context.run(ctx, lambda etcd: how(etcd, said, grant=grant))
    joining = join.join(ClusterFolder.chosen(pki), settings, found.node, asked=pki is not None)
    output.result(
        "node register",
        f"{_registered(found)}\n{joining.text(found.node)}",
        **registry.document(found.node),
        replaced=found.replaced or None,
        **exposure_document(found.knew),
        agent_command=joining.command,
        bundle=str(joining.bundle) if joining.bundle else None,
    )


def _registered(found: Registered) -> str:
    node = found.node
    if not found.replaced:
        return f"Node {node.name} is registered: uid {node.uid}, labels {','.join(node.labels)}."
    lines = [f"Node {node.name} is another machine from now on: uid {node.uid} (before: {found.replaced})."]
    if found.knew:
        lines.append(exposure(found.knew))
        lines.append("When the new machine's agent is there, let it into them:")
        lines += [f"  devopsellence secret reencrypt --env {ref}" for ref in found.knew]
    if node.cordoned:
        lines.append(f"It is cordoned, as it was before; devopsellence node uncordon {node.name}.")
    return "\n".join(lines)


@node.command("list")
@pass_output
@click.pass_context
def list_(ctx: click.Context, output: Output) -> None:
    """List the nodes: their state, labels, versions, free disk space, and the environments that they are attached to.

    \b
    Example:
      devopsellence node list
      devopsellence node list -o json
    """
    from datetime import UTC, datetime

    from devopsellence.cli.nodes import list as listing
    from devopsellence.cli.util.text import columns

    found, problems = context.run(ctx, listing.listing)
    for problem in problems:
        output.warning(f"{problem.key} is {problem.reason}")
    now = datetime.now(UTC)
    table = [each.cells(now) for each in found]
    text = columns(listing.HEADER, table) if table else "No node is registered; run devopsellence node register <name>."
    output.result(
        "node list",
        text,
        nodes=[each.document() for each in found],
        problems=[{"key": problem.key, "reason": problem.reason} for problem in problems],
    )


@node.command()
@click.argument("name")
@environment_option
@pass_output
@click.pass_context
def attach(ctx: click.Context, output: Output, name: str) -> None:
    """Let a node run the services of an environment whose kind is among its labels.

    The environment's secrets and the keys of its certificates are sealed for it first, which takes an operator who can
    open them. An environment that has a host in common with another one of the node is refused.

    \b
    Example:
      devopsellence node attach prod-1 --env production
    """

    async def work(etcd: Etcd) -> tuple[Environment, ReencryptResult]:
        from devopsellence.cli.nodes import registry

        return await registry.attach(etcd, await context.environment(ctx, etcd), name)

    environment, sealed = context.run(ctx, work)
    for problem in sealed.problems:
        output.warning(f"{problem.key} is {problem.reason}")
    if sealed.keyless:
        seals = "a deploy, or devopsellence secret reencrypt, seals the secrets for it"
        output.warning(f"node {name} has not said its key yet: {seals}")
    if sealed.closed:
        hosts = ", ".join(sealed.closed)
        output.warning(f"the keys of {hosts} cannot be opened here: the controller obtains new certificates for {name}")
    _attached(
        output,
        "node attach",
        environment,
        f"Node {name} is attached to {_path(environment)}.",
        secrets_sealed=_named(sealed.secrets),
        certificates_sealed=list(sealed.hosts),
    )


@node.command()
@click.argument("name")
@environment_option
@pass_output
@click.pass_context
def detach(ctx: click.Context, output: Output, name: str) -> None:
    """Take an environment away from a node: its containers go, its volumes stay.

    Names the secrets and the certificates' keys that the node could open; new ones are not sealed for it.

    \b
    Example:
      devopsellence node detach prod-1 --env staging
    """

    async def work(etcd: Etcd) -> tuple[Environment, Exposure]:
        from devopsellence.cli.nodes import registry

        return await registry.detach(etcd, await context.environment(ctx, etcd), name)

    environment, seen = context.run(ctx, work)
    text = f"Node {name} is detached from {_path(environment)}; its containers there are removed, its volumes stay."
    if seen.secrets:
        names = ", ".join(str(secret) for secret in seen.secrets)
        text += f"\nIt could read {names}. New values are not sealed for it: set them anew if it is not to be trusted."
    if seen.hosts:
        text += f"\nIt could read the private keys of the certificates of {', '.join(seen.hosts)}: {RENEW}."
    facts = {"secrets_seen": _named(seen.secrets), "certificates_seen": list(seen.hosts)}
    _attached(output, "node detach", environment, text, **facts)


@node.command()
@click.argument("name")
@pass_output
@click.pass_context
def cordon(ctx: click.Context, output: Output, name: str) -> None:
    """Let a node keep what it runs, and give it nothing new: releases pass it by.

    \b
    Example:
      devopsellence node cordon prod-1
    """
    _cordon(ctx, output, name, cordoned=True)


@node.command()
@click.argument("name")
@pass_output
@click.pass_context
def uncordon(ctx: click.Context, output: Output, name: str) -> None:
    """Let a cordoned node, or one that is being drained, take part again: it goes straight to the newest release.

    \b
    Example:
      devopsellence node uncordon prod-1
    """
    _cordon(ctx, output, name, cordoned=False)


def _cordon(ctx: click.Context, output: Output, name: str, *, cordoned: bool) -> None:
    from devopsellence.cli.nodes import registry

    found = context.run(ctx, lambda etcd: registry.cordon(etcd, name, cordoned=cordoned))
    kept = f"Node {name} is cordoned: it keeps what it runs and takes nothing new; devopsellence node uncordon {name}."
    text = kept if cordoned else f"Node {name} takes part again."
    output.result(f"node {'cordon' if cordoned else 'uncordon'}", text, node=name, cordoned=found.cordoned)


for command in (label, diagnose, drain, remove):
    node.add_command(command)


def _attached(output: Output, operation: str, environment: Environment, text: str, **facts: Any) -> None:
    output.result(operation, text, environment=_path(environment), nodes=list(environment.nodes), **facts)


def _named(secrets: Iterable[SecretId]) -> list[dict[str, str]]:
    return [{"service": secret.service, "name": secret.name} for secret in secrets]


def _path(environment: Environment) -> str:
    return f"{environment.organization}/{environment.project}/{environment.environment}"
