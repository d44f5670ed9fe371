"""``release``: list and show releases, and roll back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from devopsellence.access.roles import Action
from devopsellence.cli import context
from devopsellence.cli.commands.complete import complete_releases
from devopsellence.cli.groups import CommandGroup
from devopsellence.cli.options import environment_option, message_option
from devopsellence.cli.output import CliError, NextAction, Output, pass_output

if TYPE_CHECKING:
    from devopsellence.api.v1.stored_pb2 import Release, Rollout
    from devopsellence.cli.render.json import ReleaseOutcome
    from devopsellence.cli.store.snapshot import UnreadableKey
    from devopsellence.store.etcd import Etcd
    from devopsellence.store.keys import EnvironmentRef

_HEADER = ("RELEASE", "WHEN", "BY", "REVISION", "OUTCOME", "MESSAGE", "REASON")
# Longest reason in a list, in characters; release show prints the full reason.
_REASON = 60


@click.group(cls=CommandGroup)
def release() -> None:
    """List and show releases, and roll back.

    \b
    Example:
      devopsellence release list
      devopsellence release show 3
      devopsellence release rollback
    """


@release.command("list")
@click.option(
    "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Number of releases, newest first."
)
@environment_option
@pass_output
@click.pass_context
def list_(ctx: click.Context, output: Output, limit: int) -> None:
    """List the releases of an environment.

    The newest release comes first.

    \b
    Example:
      devopsellence release list --limit 5
    """
    ref, releases, rollout, problems = context.run(ctx, lambda etcd: _read(ctx, etcd))
    from devopsellence.cli.render import json
    from devopsellence.cli.util.text import columns

    outcomes = json.release_outcomes(rollout)
    shown = sorted(releases, key=lambda release: release.number, reverse=True)[:limit]
    for problem in problems:
        output.warning(f"{problem.key} is {problem.reason}")
    text = columns(_HEADER, [_row(release, outcomes) for release in shown]) if shown else f"{ref} has no releases yet."
    documents = [{**json.release(release), **_ended(outcomes, release.number).document()} for release in shown]
    output.result("release list", text, environment=str(ref), releases=documents, problems=_documents(problems))


@release.command()
@click.argument("number", type=click.IntRange(min=1), shell_complete=complete_releases)
@environment_option
@pass_output
@click.pass_context
def show(ctx: click.Context, output: Output, number: int) -> None:
    """Show the details of a release.

    \b
    Example:
      devopsellence release show 3
    """
    ref, record, rollout = context.run(ctx, lambda etcd: _read_one(ctx, etcd, number))
    if record is None:
        action = NextAction("list the releases", "devopsellence release list")
        raise CliError("release_unknown", f"{ref} has no release {number}", next_actions=[action])
    from google.protobuf.json_format import MessageToDict

    from devopsellence.cli.render import json

    ended = _ended(json.release_outcomes(rollout), number)
    fields = MessageToDict(record, preserving_proto_field_name=True)
    output.result("release show", _text(record, ended), release={**fields, **ended.document()})


@release.command()
@click.argument("number", type=click.IntRange(min=1), required=False, shell_complete=complete_releases)
@click.option("--dry-run", is_flag=True, help="Show the planned changes; do not write anything.")
@message_option
@environment_option
@pass_output
@click.pass_context
def rollback(ctx: click.Context, output: Output, number: int | None, dry_run: bool, message: str) -> None:
    """Roll back to an earlier release and follow the rollout.

    Creates a new release with the content of release NUMBER. Without NUMBER, rolls back to the last settled release
    before the running one. If the running release is itself a rollback, goes further back.

    \b
    Example:
      devopsellence release rollback --dry-run
      devopsellence release rollback
      devopsellence release rollback 3 --message "the new search is slow"
    """
    from devopsellence.cli import errors
    from devopsellence.cli.deploy.rollback import RollbackRun
    from devopsellence.cli.deploy.rollback import rollback as run_rollback
    from devopsellence.cli.images.docker_cli import DockerCli

    settings = context.connection(ctx)
    dev = context.dev_node(settings)
    docker = DockerCli(dev.docker_host if dev else None)
    begun: list[RollbackRun] = []

    async def work(etcd: Etcd) -> None:
        run = RollbackRun(
            await context.environment(ctx, etcd, Action.DEPLOY), settings, docker, output, number, message
        )
        begun.append(run)
        await run_rollback(etcd, run, dry_run=dry_run)

    try:
        context.run(ctx, work)
    except KeyboardInterrupt as error:
        stage = begun[0].stage if begun else "nothing was written"
        raise errors.interrupted(error, stage) from error


async def _read(
    ctx: click.Context, etcd: Etcd
) -> tuple[EnvironmentRef, list[Release], Rollout | None, Sequence[UnreadableKey]]:
    from devopsellence.api.v1.stored_pb2 import Release, Rollout
    from devopsellence.cli.store.reader import Reader

    ref = await context.environment(ctx, etcd)
    reader = Reader(etcd)
    releases = await reader.get_prefix(etcd.keys.releases_prefix(ref), Release)
    rollout = await reader.get(etcd.keys.rollout(ref), Rollout)
    return ref, list(releases.values()), rollout, reader.problems


async def _read_one(
    ctx: click.Context, etcd: Etcd, number: int
) -> tuple[EnvironmentRef, Release | None, Rollout | None]:
    from devopsellence.api.v1.stored_pb2 import Release, Rollout
    from devopsellence.cli.store.reader import Reader
    from devopsellence.store.codec import decode

    ref = await context.environment(ctx, etcd)
    key = etcd.keys.release(ref, number)
    item = await etcd.get(key)
    rollout = await Reader(etcd).get(etcd.keys.rollout(ref), Rollout)
    return ref, decode(Release, key, item.value) if item else None, rollout


def _ended(outcomes: dict[int, ReleaseOutcome], number: int) -> ReleaseOutcome:
    from devopsellence.cli.render.json import ReleaseOutcome

    return outcomes.get(number) or ReleaseOutcome("unknown")


def _row(release: Release, outcomes: dict[int, ReleaseOutcome]) -> list[str]:
    from devopsellence.cli.util.text import since

    created, ended = since(release.created_at, datetime.now(UTC)), _ended(outcomes, release.number)
    reason = ended.reason if len(ended.reason) <= _REASON else f"{ended.reason[: _REASON - 1]}…"
    return [
        str(release.number),
        f"{created} ago" if created else "-",
        _safe(release.created_by),
        _safe(release.revision),
        ended.text,
        _safe(release.message) if not release.rollback_of else f"repeats release {release.rollback_of}",
        _safe(reason) if reason else "",
    ]


def _text(release: Release, ended: ReleaseOutcome) -> str:
    from devopsellence.cli.untrusted import safe
    from devopsellence.cli.util.text import columns, local_time

    heads = [
        ("Release", f"{release.number} of {release.organization}/{release.project}/{release.environment}"),
        ("Outcome", ended.text),
        ("Reason", safe(ended.reason)),
        ("Written", f"{local_time(release.created_at)} by {safe(release.created_by)}"),
        ("Revision", safe(release.revision)),
        ("Message", safe(release.message)),
        ("Repeats", f"release {release.rollback_of}" if release.rollback_of else ""),
    ]
    rows = [
        [service.name, service.image.reference, service.image.pinned.rpartition("sha256:")[2][:12], _settings(service)]
        for service in release.services
    ]
    table = columns(("SERVICE", "IMAGE", "PINNED", "SETTINGS"), rows)
    return "\n".join([*(f"{name:<9} {value}" for name, value in heads if value), "", table])


def _settings(service: Any) -> str:
    settings = [f"port {port.name} {port.port}" for port in service.ports]
    settings += [
        f"volume {volume.source} at {volume.target}{' (of its image)' if volume.from_image else ''}"
        for volume in service.volumes
    ]
    settings += [f"env {', '.join(sorted(service.env))}"] if service.env else []
    settings += [f"args {' '.join(service.args)}"] if service.args else []
    return "; ".join(_safe(setting) for setting in settings)


def _safe(text: str) -> str:
    from devopsellence.cli.untrusted import safe

    return safe(text) or "-"


def _documents(problems: Sequence[UnreadableKey]) -> list[dict[str, str]]:
    return [{"key": problem.key, "reason": problem.reason} for problem in problems]
