"""``node drain`` and ``node remove``: move services off a node, and remove a node from the cluster."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from devopsellence.cli import context, errors
from devopsellence.cli.commands.complete import complete_nodes
from devopsellence.cli.confirm import confirm, destroys
from devopsellence.cli.options import duration_seconds
from devopsellence.cli.output import CliError, NextAction, Output, pass_output

if TYPE_CHECKING:
    from devopsellence.cli.nodes.drain_preview import DrainPreview
    from devopsellence.cli.nodes.remove import Removal
    from devopsellence.cli.nodes.workload import NodeService, NodeWorkload
    from devopsellence.cli.secrets.access import Exposure
    from devopsellence.store.etcd import Etcd
    from devopsellence.store.keys import EnvironmentRef

DRAIN: Final = "node drain"
REMOVE: Final = "node remove"
#: Advice about certificates whose private keys were readable for somebody who is not trusted.
RENEW_KEYS: Final = (
    "revoke and replace them (devopsellence ingress cert install, or devopsellence ingress cert remove to let the "
    "controller obtain new ones)"
)


timeout_option = click.option(
    "--timeout",
    "seconds",
    default="15m",
    show_default=True,
    metavar="TIME",
    callback=duration_seconds,
    help="How long to wait (e.g. 90s, 1h).",
)
dry_run_option = click.option("--dry-run", is_flag=True, help="Show what would happen; do not change anything.")


@click.command()
@click.argument("name", shell_complete=complete_nodes)
@click.option("--move-volumes", is_flag=True, help="Also move services with volumes, without their data.")
@dry_run_option
@click.option("--force", is_flag=True, help="Proceed even if a service has no node left.")
@timeout_option
@click.option("--detach", "-d", is_flag=True, help="Return without waiting for the drain.")
@pass_output
@click.pass_context
def drain(
    ctx: click.Context,
    output: Output,
    name: str,
    move_volumes: bool,
    dry_run: bool,
    force: bool,
    seconds: float,
    detach: bool,
) -> None:
    """Cordon a node and move its services to other nodes.

    A service stops on the node once it runs on another node. Services with volumes stay unless --move-volumes is given.
    A node that serves an ingress goes on: it forwards requests to other nodes until it is removed. To undo, run
    devopsellence node uncordon.

    \b
    Example:
      devopsellence node drain prod-1
      devopsellence node drain prod-1 --dry-run
      devopsellence node drain prod-1 --move-volumes --timeout 1h
    """
    run = DrainCommand(name, output, move_volumes=move_volumes, dry_run=dry_run, force=force, detach=detach)
    try:
        shown, seen = context.run(ctx, lambda etcd: _drain(etcd, run, seconds))
    except KeyboardInterrupt as error:
        raise errors.interrupted(error, run.stage) from error
    output.result(
        DRAIN,
        _drained_text(shown, seen, dry_run=dry_run, detach=detach),
        next_actions=_after_drain(name, drained=seen.drained, dry_run=dry_run),
        node=name,
        dry_run=dry_run,
        drained=seen.drained,
        leaving=[move.document() for move in shown.services],
        forwarded=[ingress.document() for ingress in shown.forwarded],
        left=_running(seen.leaving if seen.drained or not dry_run else seen.running),
        stays=_running(seen.running) if seen.drained else [],
    )


def _after_drain(name: str, *, drained: bool, dry_run: bool) -> list[NextAction]:
    if dry_run:
        return [NextAction("drain the node", f"devopsellence node drain {name}")]
    remove = NextAction("remove the node", f"devopsellence node remove {name}")
    follow = NextAction("follow the drain", "devopsellence node list")
    return [remove if drained else follow, NextAction("or undo the drain", f"devopsellence node uncordon {name}")]


@dataclass
class DrainCommand:
    """Arguments of ``node drain``; ``stage`` describes the progress, for the message after an interrupt."""

    name: str
    output: Output
    move_volumes: bool
    dry_run: bool
    force: bool
    detach: bool
    stage: str = "nothing was changed"


async def _drain(etcd: Etcd, run: DrainCommand, seconds: float) -> tuple[DrainPreview, NodeWorkload]:
    """Drain the node; return the services that had to move, and the node's workload afterwards."""
    from devopsellence.cli.nodes import drain_preview, registry
    from devopsellence.cli.nodes.drain import follow_drain, request_drain
    from devopsellence.cli.store.rights import check_whole_node

    name, output = run.name, run.output
    await check_whole_node(etcd, name)
    await registry.find(etcd, name)
    shown = await drain_preview.preview_drain(etcd, name, move_volumes=run.move_volumes)
    for problem in shown.problems:
        output.warning(f"{problem.key} is {problem.reason}: its services are not shown")
    flags = " --move-volumes" if run.move_volumes else ""
    _refuse(run, drain_preview.refusal(shown, f"devopsellence node drain {name}{flags} --force"))
    if run.dry_run:
        return shown, shown.workload
    for sentence in shown.sentences:
        output.line(sentence)
    node = await request_drain(etcd, name, move_volumes=run.move_volumes)
    run.stage = f"the drain of node {name} continues; to undo: devopsellence node uncordon {name}"
    if not shown.workload.reachable:
        output.warning(f"node {name} is unreachable: its agent drains the node when it is back")
    if run.detach:
        return shown, shown.workload
    output.event(DRAIN, "started", node=name, drain=registry.document(node)["drain"])

    def tell(sentence: str, seen: NodeWorkload) -> None:
        output.progress(DRAIN, sentence, left=_running(seen.leaving))

    return shown, await follow_drain(etcd, name, tell, seconds)


def _drained_text(shown: DrainPreview, seen: NodeWorkload, *, dry_run: bool, detach: bool) -> str:
    from devopsellence.cli.nodes.drain import drained_text

    name = seen.name
    if dry_run:
        lines = shown.sentences or [f"Node {name} runs nothing."]
        return "\n".join([*lines, f"Node {name} would be cordoned and drained."])
    if detach:
        return f"Node {name} is being drained. Follow with: devopsellence node list"
    return drained_text(seen)


@click.command()
@destroys("removes the containers and the record of the node, and its access to the cluster", unless="dry_run")
@click.argument("name", shell_complete=complete_nodes)
@click.option("--force", is_flag=True, help="Remove the node at once, because its machine is gone.")
@dry_run_option
@timeout_option
@pass_output
@click.pass_context
def remove(ctx: click.Context, output: Output, name: str, force: bool, dry_run: bool, seconds: float) -> None:
    """Remove a node from the cluster.

    Detaches the node from all environments and deletes its record, so that the machine loses its access to the cluster.
    The node must be drained first, unless --force is given. Lists the secrets that the machine could decrypt.

    \b
    Example:
      devopsellence node remove prod-1
      devopsellence node remove prod-1 --dry-run
      devopsellence node remove prod-1 --force
    """
    from devopsellence.store.keys import check_name

    check_name("node", name)
    run = RemoveCommand(name, output, dry_run=dry_run, force=force)
    try:
        planned = context.run(ctx, lambda etcd: _plan_removal(etcd, run))
        if not dry_run and not planned.nothing:
            confirm(ctx, f"This removes node {name} with all its containers from the cluster; its volumes stay.")
        if not dry_run:
            context.run(ctx, lambda etcd: _remove(etcd, run, planned, seconds=seconds))
    except KeyboardInterrupt as error:
        raise errors.interrupted(error, run.stage) from error
    output.result(
        REMOVE,
        _removed_text(planned, dry_run=dry_run, force=force),
        node=name,
        dry_run=dry_run,
        removed=not dry_run and not planned.nothing,
        detached=[str(ref) for ref in planned.attached],
        running=_running(planned.workload.running),
        **exposure_document(planned.exposed),
    )


@dataclass
class RemoveCommand:
    """Arguments of ``node remove``; ``stage`` describes the progress, for the message after an interrupt."""

    name: str
    output: Output
    dry_run: bool
    force: bool
    stage: str = "nothing was changed"


async def _plan_removal(etcd: Etcd, run: RemoveCommand) -> Removal:
    """Return the planned removal, after showing the secrets that the machine could decrypt."""
    from devopsellence.cli.nodes import remove

    planned = await remove.plan(etcd, run.name)
    _refuse(run, remove.refusal(planned))
    if planned.exposed and not run.dry_run:
        run.output.line(exposure(planned.exposed))
    return planned


async def _remove(etcd: Etcd, run: RemoveCommand, planned: Removal, *, seconds: float) -> None:
    """Remove the node as planned."""
    from devopsellence.cli.nodes import remove

    name, output = run.name, run.output
    if run.force and planned.workload.reachable:
        output.warning(f"node {name} is still running: stop its agent and containers on that machine")
    run.stage = f"to complete: devopsellence node remove {name}{' --force' if run.force else ''}"

    def tell(sentence: str) -> None:
        output.progress(REMOVE, sentence)

    await remove.remove(etcd, planned, tell, force=run.force, seconds=seconds)


def _refuse(run: DrainCommand | RemoveCommand, refused: CliError | None) -> None:
    """Raise ``refused``, unless forced; a dry run only prints a warning."""
    if refused is None or run.force:
        return
    if not run.dry_run:
        raise refused
    run.output.warning(f"this would be refused without --force: {refused.message}")


def _removed_text(planned: Removal, *, dry_run: bool, force: bool) -> str:
    name = planned.workload.name
    if planned.nothing:
        return f"Nothing to remove: no node {name} is registered."
    if not dry_run:
        return f"Removed node {name}."
    lines = [f"{name} would be detached from {ref}" for ref in planned.attached]
    if force:
        lines += [f"{service} would keep running on the machine" for service in planned.workload.running]
    if planned.exposed:
        lines.append(exposure(planned.exposed))
    return "\n".join([*lines, f"Node {name} would be removed."])


def exposure(knew: Mapping[EnvironmentRef, Exposure], *, whose: str = "machine") -> str:
    """Return the list of secrets and private keys a machine or an operator could decrypt, with advice."""
    lines: list[str] = []
    distrust = f"if you do not trust the {whose}"
    if secrets := [f"  {ref}: {', '.join(map(str, seen.secrets))}" for ref, seen in knew.items() if seen.secrets]:
        advice = f"{distrust}, set new values (devopsellence secret set):"
        lines += [f"The {whose} could read these secrets; {advice}", *secrets]
    if hosts := [f"  {ref}: {', '.join(seen.hosts)}" for ref, seen in knew.items() if seen.hosts]:
        lines += [f"The {whose} could read the private keys of these certificates; {distrust}, {RENEW_KEYS}:", *hosts]
    return "\n".join(lines)


def exposure_document(knew: Mapping[EnvironmentRef, Exposure]) -> dict[str, Any]:
    """Return the JSON fields ``secrets_seen`` and ``certificates_seen``."""
    return {
        "secrets_seen": [
            {"environment": str(ref), "service": secret.service, "name": secret.name}
            for ref, seen in knew.items()
            for secret in seen.secrets
        ],
        "certificates_seen": [
            {"environment": str(ref), "host": host} for ref, seen in knew.items() for host in seen.hosts
        ],
    }


def _running(services: Iterable[NodeService]) -> list[dict[str, Any]]:
    return [
        {"environment": str(service.environment), "service": service.service, "volumes": list(service.volumes)}
        for service in services
    ]
