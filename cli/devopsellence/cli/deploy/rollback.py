"""``release rollback``: the content of an older release as a new one, so that history only grows.

Nothing is built: images are the older release's bytes, which nodes keep for ten releases and are sent where they lack
them. Secrets are those versions that it named, as long as they are stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from devopsellence.api.v1.stored_pb2 import Release, Rollout
from devopsellence.cli import secrets
from devopsellence.cli.deploy import ingress as routed
from devopsellence.cli.deploy.follow import follow_release
from devopsellence.cli.deploy.plan import headline
from devopsellence.cli.deploy.preview import make_plan, plan_document, plan_table
from devopsellence.cli.deploy.publish import NewerReleaseExists, PublishTarget, publish, read_target
from devopsellence.cli.images.distribute import distribute
from devopsellence.cli.images.docker_cli import DockerCli
from devopsellence.cli.output import CliError, NextAction, Output
from devopsellence.cli.render import json
from devopsellence.cli.store import releases, transaction
from devopsellence.cli.store.reader import Reader
from devopsellence.cli.store.snapshot import target_of
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef
from devopsellence.store.settings import Settings

OPERATION: Final = "release rollback"
_LIST: Final = NextAction("see which there are", "devopsellence release list")


@dataclass
class RollbackRun:
    """One rollback: ``number`` is the release to go back to, None for the last that settled before what runs."""

    ref: EnvironmentRef
    settings: Settings
    docker: DockerCli
    output: Output
    number: int | None
    message: str
    stage: str = "nothing was written"


async def rollback(etcd: Etcd, run: RollbackRun, *, dry_run: bool) -> None:
    """Write the release and follow it; with ``dry_run`` only say what would happen.

    Raises:
        CliError: ``release_unknown``, ``rollback_pointless``; what a deploy raises.
    """
    newest, older = await choose_releases(etcd, run.ref, run.number)
    draft = copy_of_release(older, run.message)
    target = await read_target(etcd, run.ref)
    registry = draft.registry if draft.HasField("registry") else None
    ingress = draft.ingress if draft.HasField("ingress") else None
    await routed.check_host_conflict(etcd, run.ref, ingress, target.nodes)
    if dry_run:
        await secrets.pin_versions(etcd, run.ref, draft.services, registry)
        await _preview(etcd, run, draft, older.number, target)
        return
    secrets.warn_of_keyless(run.output, await secrets.pin(etcd, run.ref, draft.services, registry, nodes=target.nodes))
    await distribute(etcd, run.settings, run.docker, draft, target.nodes, run.output)
    run.stage = "the release may have been written: see devopsellence status"
    try:
        release, _ = await publish(etcd, run.ref, draft, onto=newest.number)
    except NewerReleaseExists as error:
        message = f"{run.ref}: another release was written at the same moment; nothing was written, look again"
        raise CliError("busy", message, next_actions=[_LIST]) from error
    run.stage = f"release {release.number} is written and its rollout goes on: devopsellence status --watch"
    text = f"release {release.number} of {run.ref}, which repeats release {older.number}, is written"
    run.output.progress(OPERATION, text, stage="released", release=json.release(release))
    await follow_release(etcd, run.ref, run.output, OPERATION, release)


async def choose_releases(etcd: Etcd, ref: EnvironmentRef, number: int | None) -> tuple[Release, Release]:
    """The newest release, and the older one to go back to."""
    newest = await releases.newest_release(etcd, ref)
    if newest is None:
        raise CliError("release_unknown", f"{ref} has no release to go back from", next_actions=[_LIST])
    rollout = await Reader(etcd).get(etcd.keys.rollout(ref), Rollout)
    current = running(rollout, newest.number)
    if number is None:
        number = last_settled(rollout, current)
        if number is None:
            message = f"no release of {ref} before release {current} is known to have settled; name one"
            raise CliError("release_unknown", message, next_actions=[_LIST])
    if number == current:
        message = f"release {number} is the newest of {ref}; deploy runs it already"
        if current != newest.number:
            message = f"release {number} of {ref} runs already, since release {newest.number} was rolled back"
        raise CliError("rollback_pointless", message, next_actions=[_LIST])
    older = await releases.read_release(etcd, ref, number)
    if older is None:
        raise CliError("release_unknown", f"{ref} has no release {number}", next_actions=[_LIST])
    return newest, older


def running(rollout: Rollout | None, newest: int) -> int:
    """The release that the environment is to run: ``newest``, or the one that it was rolled back to. Pure."""
    return target_of(rollout) if rollout is not None and rollout.release == newest else newest


def last_settled(rollout: Rollout | None, current: int) -> int | None:
    """The last release that settled before ``current``; None if that is not known. Pure."""
    if rollout is None:
        return None
    outcomes = {each.release: each.phase for each in rollout.history} | {rollout.release: rollout.phase}
    settled = {each for each, phase in outcomes.items() if phase == Rollout.SETTLED} | {rollout.last_settled or current}
    return max((each for each in settled if each < current), default=None)


def copy_of_release(older: Release, message: str) -> Release:
    """A release with the content of ``older``, without a number yet."""
    draft = Release()
    draft.CopyFrom(older)
    draft.number = 0
    draft.rollback_of = older.rollback_of or older.number
    draft.message = message
    draft.created_by = transaction.current_user()
    draft.created_at.CopyFrom(transaction.now())
    return draft


async def _preview(etcd: Etcd, run: RollbackRun, draft: Release, older: int, target: PublishTarget) -> None:
    compared = await make_plan(etcd, run.ref, draft.services, target.nodes, run.output)
    lines = [
        headline(str(run.ref), target.newest, compared.steps, compared.nodes),
        f"its content would be release {older}'s",
        *compared.where_text(),
    ]
    run.output.result(
        OPERATION,
        "\n".join([*lines, "", plan_table(compared.steps)]),
        dry_run=True,
        environment=str(run.ref),
        release=target.newest + 1,
        rollback_of=draft.rollback_of,
        plan=plan_document(compared.steps),
        replicas=compared.where_document(),
    )
