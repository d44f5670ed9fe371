"""``node``: register, label, attach, drain and remove nodes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from devopsellence.cli import context, errors
from devopsellence.cli.commands.cluster.node_diagnose import diagnose
from devopsellence.cli.commands.cluster.node_drain import (
    RENEW_KEYS,
    drain,
    exposure,
    exposure_document,
    remove,
    timeout_option,
)
from devopsellence.cli.commands.cluster.node_label import LABELS_HELP, label
from devopsellence.cli.commands.complete import complete_labels, complete_nodes
from devopsellence.cli.confirm import confirm, destroys
from devopsellence.cli.groups import CommandGroup
from devopsellence.cli.options import environment_option, pki_option
from devopsellence.cli.output import CliError, NextAction, Output, pass_output
from devopsellence.cli.util.text import few

if TYPE_CHECKING:
    from devopsellence.api.v1.stored_pb2 import Environment
    from devopsellence.certificates.join_token import JoinToken
    from devopsellence.cli.nodes.register import Registration
    from devopsellence.cli.secrets.access import Exposure, ReencryptResult
    from devopsellence.cli.secrets.records import SecretId
    from devopsellence.store.etcd import Etcd
    from devopsellence.store.keys import EnvironmentRef

DETACH: Final = "node detach"


@click.group(cls=CommandGroup)
def node() -> None:
    """Register, label, attach, drain and remove nodes.

    A node is a machine that runs services: the services that match its labels, in the environments it is attached to.

    \b
    Example:
      devopsellence node register prod-1 --labels web,worker
      devopsellence node attach prod-1 --env production
    """


@node.command()
@destroys("--replace takes the access to the cluster from the machine that has the name", when="replace")
@click.argument("name", shell_complete=complete_nodes)
@click.option("--labels", metavar="LABELS", shell_complete=complete_labels, help=f"{LABELS_HELP}  [default: web]")
@click.option("--address", metavar="ADDRESS", help="IP address or host name of the node.")
@click.option("--replace", is_flag=True, help="Give the name to a new machine; the old one loses access.")
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
    """Register a node and print how its machine joins the cluster.

    Prints a command for the machine, with a token that is good for one use within an hour: the machine makes its key
    itself. If the cluster's CA is on this machine, also creates a folder with a certificate, to be copied instead.
    Running the command again prints another token. With --replace, a new machine takes over the name, labels, address
    and environments of the node.

    \b
    Example:
      devopsellence node register prod-1 --labels web,worker --address 10.0.0.5
      devopsellence node register prod-1 --replace
    """
    from devopsellence.cli.cluster import join
    from devopsellence.cli.cluster.folder import ClusterFolder
    from devopsellence.cli.nodes import registry
    from devopsellence.cli.nodes.register import NodeOptions, register_node, replace_node
    from devopsellence.cli.util.addresses import check_host
    from devopsellence.store.keys import check_name

    check_name("node", name)
    options = NodeOptions(
        name,
        registry.parse_labels(labels) if labels is not None else None,
        check_host(address) if address else address,
    )
    source = join.JoinSource.of(ClusterFolder.chosen(pki), context.connection(ctx), required=pki is not None)
    if replace:
        confirm(ctx, f"The machine that is now node {name} loses access to the cluster, and its key becomes useless.")
    change = replace_node if replace else register_node

    async def work(etcd: Etcd) -> tuple[Registration, tuple[JoinToken | None, str]]:
        registered = await change(etcd, options)
        return registered, await join.create_token(etcd, registered.node, source)

    registration, token = context.run(ctx, work)
    node = registration.node
    instructions = join.instructions(source, node, *token)
    output.result(
        "node register",
        f"{_registration_text(registration)}\n{instructions.text(registration.next_steps)}",
        **registry.document(node),
        replaced=registration.replaced or None,
        environments=[str(ref) for ref in registration.attached],
        **exposure_document(registration.exposed),
        next_actions=[*instructions.next_steps, *registration.next_steps],
        **instructions.document(),
    )


def _registration_text(registration: Registration) -> str:
    node = registration.node
    if not registration.replaced:
        return f"Node {node.name} is registered: uid {node.uid}, labels {','.join(node.labels)}."
    lines = [f"Node {node.name} is now a new machine: uid {node.uid} (before: {registration.replaced})."]
    if registration.exposed:
        lines.append(exposure(registration.exposed))
    if registration.attached:
        lines.append(f"It is attached to {', '.join(map(str, registration.attached))}, as before.")
    if node.cordoned:
        lines.append("It is still cordoned.")
    return "\n".join(lines)


@node.command("list")
@pass_output
@click.pass_context
def list_(ctx: click.Context, output: Output) -> None:
    """List the nodes and their state.

    Shows state, labels, versions, free disk space and attached environments.

    \b
    Example:
      devopsellence node list
      devopsellence node list -o json
    """
    from datetime import UTC, datetime

    from devopsellence.cli.nodes.list import HEADER, list_nodes
    from devopsellence.cli.util.text import columns

    nodes, problems = context.run(ctx, list_nodes)
    for problem in problems:
        output.warning(f"{problem.key} is {problem.reason}")
    now = datetime.now(UTC)
    table = [node.cells(now) for node in nodes]
    text = columns(HEADER, table) if table else "No nodes yet. Add one: devopsellence node register <name>"
    output.result(
        "node list",
        text,
        next_actions=[] if table else [NextAction("add a node", "devopsellence node register <name>")],
        nodes=[node.document() for node in nodes],
        problems=[{"key": problem.key, "reason": problem.reason} for problem in problems],
    )


@node.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=complete_nodes)
@environment_option
@pass_output
@click.pass_context
def attach(ctx: click.Context, output: Output, names: Sequence[str]) -> None:
    """Attach nodes to an environment.

    The nodes run the services of the environment that match their labels. The command first encrypts the secrets and
    certificate keys of the environment for the nodes, so you must be able to decrypt them. A node cannot be attached to
    two environments with the same ingress host.

    \b
    Example:
      devopsellence node attach prod-1 --env production
      devopsellence node attach prod-1 prod-2 prod-3 --env production
    """
    names = list(dict.fromkeys(names))

    async def work(etcd: Etcd) -> tuple[Environment, ReencryptResult]:
        from devopsellence.cli.nodes import registry

        return await registry.attach(etcd, await context.environment(ctx, etcd), names)

    environment, result = context.run(ctx, work)
    for problem in result.problems:
        output.warning(f"{problem.key} is {problem.reason}")
    for name in result.keyless:
        advice = "run devopsellence secret reencrypt, or deploy, once its agent is running"
        output.warning(f"node {name} cannot decrypt the secrets yet, because its public key is not known; {advice}")
    if result.undecryptable:
        hosts = ", ".join(result.undecryptable)
        output.warning(f"cannot decrypt the private keys of {hosts}: the controller obtains new certificates")
    _attached(
        output,
        "node attach",
        environment,
        "\n".join(f"Node {name} is attached to {_path(environment)}." for name in names),
        secrets_sealed=_documents(result.secrets),
        certificates_sealed=list(result.hosts),
    )


@node.command()
@destroys("removes the containers of the environment from the node")
@click.argument("name", shell_complete=complete_nodes)
@click.option("--wait", "-w", is_flag=True, help="Wait until the node has removed the containers.")
@timeout_option
@environment_option
@pass_output
@click.pass_context
def detach(ctx: click.Context, output: Output, name: str, wait: bool, seconds: float) -> None:
    """Detach a node from an environment.

    The agent of the node then stops the containers of the environment, which takes up to their grace periods, and
    removes them; the volumes stay. With --wait, follows that until nothing is left, also for a node that was detached
    before. Lists the secrets and certificate keys that the node could decrypt.

    \b
    Example:
      devopsellence node detach prod-1 --env staging
      devopsellence node detach prod-1 --env staging --wait
    """
    run = DetachCommand(name, output)
    try:
        ref = context.run(ctx, lambda etcd: run.find(ctx, etcd, wait=wait))
        if run.attached:
            confirm(ctx, f"This removes the containers of {ref} from node {name}; its volumes stay.")
        environment, seen = context.run(ctx, lambda etcd: run.detach(etcd, ref, seconds=seconds if wait else None))
    except KeyboardInterrupt as error:
        raise errors.interrupted(error, run.stage) from error
    text = f"Node {name} is detached from {ref}"
    if wait:
        text += ", and has removed its containers; its volumes stay."
    elif run.leaving:
        text += (
            f". It still runs {few(run.leaving)}: its agent stops them, within the grace period, and removes them; its "
            f"volumes stay.\nTo follow that: devopsellence node detach {name} --env {ref} --wait"
        )
    else:
        text += "; it runs nothing of it."
    if seen.secrets:
        names = ", ".join(str(secret) for secret in seen.secrets)
        text += f"\nThe node could read these secrets: {names}. If you do not trust it, set new values."
    if seen.hosts:
        hosts = ", ".join(seen.hosts)
        text += f"\nThe node could read the private keys of the certificates of {hosts}; "
        text += f"if you do not trust the machine, {RENEW_KEYS}."
    follow = NextAction("follow the removal", f"devopsellence node detach {name} --env {ref} --wait -y")
    output.result(
        DETACH,
        text,
        environment=str(ref),
        nodes=list(environment.nodes) if environment is not None else [],
        leaving=[] if wait else list(run.leaving),
        secrets_seen=_documents(seen.secrets),
        certificates_seen=list(seen.hosts),
        next_actions=[follow] if run.leaving and not wait else [],
    )


@dataclass
class DetachCommand:
    """Run of ``node detach``; ``stage`` describes the progress, for the message after an interrupt.

    ``attached``: the node is attached at the start. ``leaving``: services that run on the node at the start.
    """

    name: str
    output: Output
    attached: bool = False
    leaving: tuple[str, ...] = ()
    stage: str = "nothing was changed"

    async def find(self, ctx: click.Context, etcd: Etcd, *, wait: bool) -> EnvironmentRef:
        """Return the environment, after checking that there is something to do on the node."""
        from devopsellence.cli.environments.remains import services_on
        from devopsellence.cli.nodes import registry

        ref = await context.environment(ctx, etcd)
        left = await services_on(etcd, ref, self.name)
        self.leaving = left or ()
        try:
            await registry.check_attached(etcd, ref, self.name)
            self.attached = True
        except CliError as error:
            if left is None:
                raise
            if not wait:
                still = ", ".join(self.leaving) or "what it ran"
                follow = NextAction("follow that", f"devopsellence node detach {self.name} --env {ref} --wait -y")
                message = f"{error.message} any more; its agent still has to remove {still}"
                raise CliError(error.code, message, next_actions=[follow]) from error
        return ref

    async def detach(
        self, etcd: Etcd, ref: EnvironmentRef, *, seconds: float | None
    ) -> tuple[Environment | None, Exposure]:
        """Detach the node unless it is detached, and with ``seconds`` wait until it has removed everything."""
        from devopsellence.cli.commands.cluster.env import removal_progress
        from devopsellence.cli.environments.remains import wait_removed
        from devopsellence.cli.nodes import registry
        from devopsellence.cli.secrets.access import Exposure

        environment, seen = None, Exposure()
        if self.attached:
            environment, seen = await registry.detach(etcd, ref, self.name)
        if seconds is not None:
            self.stage = f"node {self.name} is detached; its agent goes on removing the containers"
            self.output.event(DETACH, "started", environment=str(ref), node=self.name)
            tell = removal_progress(self.output, DETACH)
            await wait_removed(etcd, ref, [self.name], tell, seconds)
        return environment, seen


@node.command()
@click.argument("name", shell_complete=complete_nodes)
@pass_output
@click.pass_context
def cordon(ctx: click.Context, output: Output, name: str) -> None:
    """Stop placing new work on a node.

    Running services stay, but the node gets no new releases until it is uncordoned.

    \b
    Example:
      devopsellence node cordon prod-1
    """
    _cordon(ctx, output, name, cordoned=True)


@node.command()
@click.argument("name", shell_complete=complete_nodes)
@pass_output
@click.pass_context
def uncordon(ctx: click.Context, output: Output, name: str) -> None:
    """Resume placing work on a node, and cancel a drain.

    The node updates to the running release at once.

    \b
    Example:
      devopsellence node uncordon prod-1
    """
    _cordon(ctx, output, name, cordoned=False)


def _cordon(ctx: click.Context, output: Output, name: str, *, cordoned: bool) -> None:
    from devopsellence.cli.nodes import registry

    node = context.run(ctx, lambda etcd: registry.cordon(etcd, name, cordoned=cordoned))
    text = f"Node {name} is uncordoned."
    if cordoned:
        text = f"Node {name} is cordoned: it keeps its services and gets no new ones. To undo: node uncordon {name}"
    undo = [NextAction("to undo", f"devopsellence node uncordon {name}")] if cordoned else []
    output.result(
        f"node {'cordon' if cordoned else 'uncordon'}", text, next_actions=undo, node=name, cordoned=node.cordoned
    )


for command in (label, diagnose, drain, remove):
    node.add_command(command)


def _attached(output: Output, operation: str, environment: Environment, text: str, **facts: Any) -> None:
    output.result(operation, text, environment=_path(environment), nodes=list(environment.nodes), **facts)


def _documents(secrets: Iterable[SecretId]) -> list[dict[str, str]]:
    return [{"service": secret.service, "name": secret.name} for secret in secrets]


def _path(environment: Environment) -> str:
    return f"{environment.organization}/{environment.project}/{environment.environment}"
