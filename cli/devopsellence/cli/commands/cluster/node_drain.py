"""``node drain`` and ``node remove``: how a node is emptied, and how it leaves the cluster."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from devopsellence.cli import context
from devopsellence.cli.options import duration_seconds
from devopsellence.cli.output import CliError, Output, pass_output

if TYPE_CHECKING:
    from devopsellence.cli.nodes.drain_preview import Preview
    from devopsellence.cli.nodes.remove import Removal
    from devopsellence.cli.nodes.workload import Running, Seen
    from devopsellence.cli.secrets.access import Exposure
    from devopsellence.store.etcd import Etcd
    from devopsellence.store.keys import EnvironmentRef

DRAIN: Final = "node drain"
REMOVE: Final = "node remove"
#: What to do about certificates whose private keys somebody has seen who is not to be trusted.
RENEW: Final = (
    "have them revoked if it is not to be trusted, and make new ones (devopsellence ingress cert install; "
    "devopsellence ingress cert remove lets the controller obtain another)"
)


_timeout_option = click.option(
    "--timeout",
    "seconds",
    default="15m",
    show_default=True,
    metavar="TIME",
    callback=duration_seconds,
    help="How long to wait, such as 90s or 1h.",
)
_dry_run_option = click.option("--dry-run", is_flag=True, help="Only show what would happen.")


@click.command()
@click.argument("name")
@click.option("--move-volumes", is_flag=True, help="Also services with volumes; their data stays behind.")
@_dry_run_option
@click.option("--force", is_flag=True, help="Also when a service runs nowhere then.")
@_timeout_option
@click.option("--detach", "-d", is_flag=True, help="Do not wait until the node is empty.")
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
    """Empty a node: it is cordoned, and what it runs leaves it, as soon as that runs elsewhere.

    Services with volumes stay, unless they are told to leave. node uncordon takes all of it back.

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
        raise CliError("interrupted", f"interrupted; {run.stage}", exit_code=130) from error
    output.result(
        DRAIN,
        _drained_text(shown, seen, dry_run=dry_run, detach=detach),
        node=name,
        dry_run=dry_run,
        drained=seen.drained,
        leaving=[each.document() for each in shown.leaving],
        left=_running(seen.leaving if seen.drained or not dry_run else seen.running),
        stays=_running(seen.running) if seen.drained else [],
    )


@dataclass
class DrainCommand:
    """One ``node drain``; ``stage`` is what to say of it when it is interrupted."""

    name: str
    output: Output
    move_volumes: bool
    dry_run: bool
    force: bool
    detach: bool
    stage: str = "nothing was changed"


async def _drain(etcd: Etcd, run: DrainCommand, seconds: float) -> tuple[Preview, Seen]:
    """What was to leave, and the node as it is afterwards."""
    from devopsellence.cli.nodes import drain as draining
    from devopsellence.cli.nodes import drain_preview, registry

    name, output = run.name, run.output
    await registry.find(etcd, name)
    shown = await drain_preview.preview(etcd, name, move_volumes=run.move_volumes)
    for problem in shown.problems:
        output.warning(f"{problem.key} is {problem.reason}: what leaves there is not shown")
    flags = " --move-volumes" if run.move_volumes else ""
    _refuse(run, drain_preview.refusal(shown, f"devopsellence node drain {name}{flags} --force"))
    if run.dry_run:
        return shown, shown.seen
    for each in shown.leaving:
        output.line(each.text(name))
    node = await draining.order(etcd, name, move_volumes=run.move_volumes)
    run.stage = f"node {name} goes on being drained; devopsellence node uncordon {name} takes it back"
    if not shown.seen.answers:
        output.warning(f"the agent of node {name} is not there: it empties the node when it is back")
    if run.detach:
        return shown, shown.seen
    output.event(DRAIN, "started", node=name, drain=registry.document(node)["drain"])

    def tell(sentence: str, seen: Seen) -> None:
        output.progress(DRAIN, sentence, left=_running(seen.leaving))

    return shown, await draining.follow(etcd, name, tell, seconds)


def _drained_text(shown: Preview, seen: Seen, *, dry_run: bool, detach: bool) -> str:
    from devopsellence.cli.nodes.drain import outcome

    name = seen.name
    if dry_run:
        lines = [each.text(name) for each in shown.leaving] or [f"Node {name} runs nothing."]
        return "\n".join([*lines, f"Node {name} would be cordoned and drained."])
    if detach:
        return f"Node {name} is being drained; devopsellence node list shows when it is drained."
    return outcome(seen)


@click.command()
@click.argument("name")
@click.option("--force", is_flag=True, help="At once: its machine is gone and clears nothing away.")
@_dry_run_option
@_timeout_option
@pass_output
@click.pass_context
def remove(ctx: click.Context, output: Output, name: str, force: bool, dry_run: bool, seconds: float) -> None:
    """Take a node out of the cluster: out of all environments, its record, and its way into etcd.

    It has to be drained, unless --force is given. Names the secrets that its machine could open.

    \b
    Example:
      devopsellence node remove prod-1
      devopsellence node remove prod-1 --dry-run
      devopsellence node remove prod-1 --force
    """
    from devopsellence.store.keys import check_name

    check_name("node", name)
    grant = context.connection(ctx).cert is not None
    run = RemoveCommand(name, output, dry_run=dry_run, force=force)
    try:
        planned = context.run(ctx, lambda etcd: _remove(etcd, run, grant=grant, seconds=seconds))
    except KeyboardInterrupt as error:
        raise CliError("interrupted", f"interrupted; {run.stage}", exit_code=130) from error
    output.result(
        REMOVE,
        _removed_text(planned, dry_run=dry_run, force=force),
        node=name,
        dry_run=dry_run,
        removed=not dry_run and not planned.nothing,
        detached=[str(ref) for ref in planned.attached],
        running=_running(planned.seen.running),
        **exposure_document(planned.knew),
    )


@dataclass
class RemoveCommand:
    """One ``node remove``; ``stage`` is what to say of it when it is interrupted."""

    name: str
    output: Output
    dry_run: bool
    force: bool
    stage: str = "nothing was changed"


async def _remove(etcd: Etcd, run: RemoveCommand, *, grant: bool, seconds: float) -> Removal:
    """What there was to take away."""
    from devopsellence.cli.nodes import remove as removing

    name, output = run.name, run.output
    planned = await removing.plan(etcd, name)
    _refuse(run, removing.refusal(planned))
    if run.dry_run:
        return planned
    if planned.knew:
        output.line(exposure(planned.knew))
    if run.force and planned.seen.answers:
        output.warning(f"the agent of node {name} is there: what it runs goes on until you stop it on that machine")
    run.stage = f"devopsellence node remove {name}{' --force' if run.force else ''} goes on where it ended"

    def tell(sentence: str) -> None:
        output.progress(REMOVE, sentence)

    await removing.remove(etcd, planned, tell, force=run.force, grant=grant, seconds=seconds)
    return planned


def _refuse(run: DrainCommand | RemoveCommand, refused: CliError | None) -> None:
    """Raise what speaks against it, unless it is forced; a dry run only tells."""
    if refused is None or run.force:
        return
    if not run.dry_run:
        raise refused
    run.output.warning(f"this would be refused without --force: {refused.message}")


def _removed_text(planned: Removal, *, dry_run: bool, force: bool) -> str:
    name = planned.seen.name
    if planned.nothing:
        return f"No node {name} is registered: there is nothing to remove."
    if not dry_run:
        return f"Node {name} is removed."
    lines = [f"{name} would be detached from {ref}" for ref in planned.attached]
    if force:
        lines += [f"{each} would not be waited for" for each in planned.seen.running]
    if planned.knew:
        lines.append(exposure(planned.knew))
    return "\n".join([*lines, f"Node {name} would be removed."])


def exposure(knew: Mapping[EnvironmentRef, Exposure]) -> str:
    """What a machine could open, and what to do about it."""
    lines: list[str] = []
    if secrets := [f"  {ref}: {', '.join(map(str, each.secrets))}" for ref, each in knew.items() if each.secrets]:
        mend = "set them anew if it is not to be trusted (devopsellence secret set):"
        lines += [f"Its machine could read these secrets; {mend}", *secrets]
    if hosts := [f"  {ref}: {', '.join(each.hosts)}" for ref, each in knew.items() if each.hosts]:
        lines += [f"Its machine could read the private keys of these hosts' certificates; {RENEW}:", *hosts]
    return "\n".join(lines)


def exposure_document(knew: Mapping[EnvironmentRef, Exposure]) -> dict[str, list[dict[str, Any]]]:
    """The same in JSON: the fields ``secrets_seen`` and ``certificates_seen``."""
    return {
        "secrets_seen": [
            {"environment": str(ref), "service": each.service, "name": each.name}
            for ref, seen in knew.items()
            for each in seen.secrets
        ],
        "certificates_seen": [
            {"environment": str(ref), "host": host} for ref, seen in knew.items() for host in seen.hosts
        ],
    }


def _running(found: Iterable[Running]) -> list[dict[str, Any]]:
    return [
        {"environment": str(each.environment), "service": each.service, "volumes": list(each.volumes)} for each in found
    ]
