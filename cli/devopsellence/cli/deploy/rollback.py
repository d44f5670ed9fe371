"""``release rollback``: publish the content of an older release as a new release.

Nothing is built: nodes keep the images of ten releases, and missing images are uploaded. Secrets are the versions
named by the older release; if one is no longer stored, nothing is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from devopsellence.api.v1.stored_pb2 import Environment, Release, Rollout
from devopsellence.cli import secrets
from devopsellence.cli.deploy import ingress as deploy_ingress
from devopsellence.cli.deploy import size
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
from devopsellence.cli.store.snapshot import release_numbers, settled_before
from devopsellence.store.codec import decode
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef
from devopsellence.store.settings import Settings

OPERATION: Final = "release rollback"
_LIST: Final = NextAction("list the releases", "devopsellence release list")


@dataclass
class RollbackRun:
    """Options of a rollback: ``number`` is the older release, None for the last settled release before the current."""

    ref: EnvironmentRef
    settings: Settings
    docker: DockerCli
    output: Output
    number: int | None
    message: str
    stage: str = "nothing was written"


async def rollback(etcd: Etcd, run: RollbackRun, *, dry_run: bool) -> None:
    """Publish the release and follow the rollout; with ``dry_run`` only print the plan.

    Raises:
        CliError: ``release_unknown``, ``rollback_pointless``, ``secret_version_gone``; what a deploy raises.
    """
    newest, older = await choose_release(etcd, run.ref, run.number)
    draft = copy_of_release(older, run.message)
    target = await read_target(etcd, run.ref)
    ingress = draft.ingress if draft.HasField("ingress") else None
    await deploy_ingress.check_host_conflict(etcd, run.ref, ingress, target.nodes)
    stored = await secrets.pin_versions(etcd, run.ref, draft)
    await size.check(etcd, run.ref, draft, target.nodes, stored)
    if dry_run:
        await _preview(etcd, run, draft, older.number, target)
        return
    secrets.warn_of_keyless(run.output, await secrets.pin(etcd, run.ref, draft, nodes=target.nodes))
    run.stage = "no release was written: images were being sent to the nodes, which keep what has arrived"
    await distribute(etcd, run.settings, run.docker, draft, target.nodes, run.output)
    run.stage = "the release may have been written; check with devopsellence status"
    try:
        release, _ = await publish(etcd, run.ref, draft, onto=newest)
    except NewerReleaseExists as error:
        message = f"{run.ref}: another release was written at the same time, so nothing was written; try again"
        raise CliError("busy", message, next_actions=[_LIST]) from error
    run.stage = f"the rollout of release {release.number} continues; follow with devopsellence status --watch"
    text = f"created release {release.number} of {run.ref} with the content of release {older.number}"
    run.output.progress(OPERATION, text, stage="released", release=json.release(release))
    await follow_release(etcd, run.ref, run.output, OPERATION, release)


async def choose_release(etcd: Etcd, ref: EnvironmentRef, number: int | None) -> tuple[int, Release]:
    """Return the number of the newest release, whose record may be missing, and the older release to roll back to.

    Raises:
        CliError: ``release_unknown``, ``rollback_pointless``.
    """
    newest = await _newest_number(etcd, ref)
    if not newest:
        raise CliError("release_unknown", f"{ref} has no release to roll back", next_actions=[_LIST])
    reader = Reader(etcd)
    rollout = await reader.get(etcd.keys.rollout(ref), Rollout)
    current = running(rollout, newest)
    if number is None:
        # Unreadable or missing: its own number.
        origin = content_of(await reader.get(etcd.keys.release(ref, current), Release), current)
        number = last_settled(rollout, origin)
        if number is None:
            repeats = f", which release {current} repeats," if origin != current else ""
            message = f"no release of {ref} before release {origin}{repeats} is known to have settled; name a release"
            raise CliError("release_unknown", message, next_actions=[_LIST])
    if number == current:
        message = f"release {number} is the newest of {ref} and runs already"
        if current != newest:
            message = f"release {number} of {ref} runs already, because release {newest} was rolled back"
        raise CliError("rollback_pointless", message, next_actions=[_LIST])
    older = await releases.read_release(etcd, ref, number)
    if older is None:
        raise CliError("release_unknown", f"{ref} has no release {number}", next_actions=[_LIST])
    return newest, older


def running(rollout: Rollout | None, newest: int) -> int:
    """Return the rollout target: ``newest``, or the release to which ``newest`` was rolled back. Pure."""
    return release_numbers(newest, rollout).target


def content_of(release: Release | None, number: int) -> int:
    """Return the release whose content ``release`` repeats after a rollback, else ``number``, its own. Pure.

    Otherwise a second rollback would return to the release that the first one has left.
    """
    return (release.rollback_of if release is not None else 0) or number


async def _newest_number(etcd: Etcd, ref: EnvironmentRef) -> int:
    """Return the number of the newest release; 0 before the first.

    Raises:
        MalformedRecord: the record of the environment cannot be read.
    """
    key = etcd.keys.environment(ref)
    stored = await etcd.get(key)
    return decode(Environment, key, stored.value).latest_release if stored else 0


def last_settled(rollout: Rollout | None, current: int) -> int | None:
    """Return the last release that settled before ``current``; None if not known. Pure."""
    return (settled_before(rollout, current) or None) if rollout is not None else None


def copy_of_release(older: Release, message: str) -> Release:
    """Return a draft with the content of ``older``, without a number."""
    draft = Release()
    draft.CopyFrom(older)
    draft.number = 0
    draft.rollback_of = older.rollback_of or older.number
    draft.message = message
    draft.created_at.CopyFrom(transaction.now())
    return draft


async def _preview(etcd: Etcd, run: RollbackRun, draft: Release, older: int, target: PublishTarget) -> None:
    planned = await make_plan(etcd, run.ref, draft.services, target.nodes, run.output)
    lines = [
        headline(str(run.ref), target.newest, planned.steps, planned.nodes),
        f"with the content of release {older}",
        *planned.where_text(),
    ]
    run.output.result(
        OPERATION,
        "\n".join([*lines, "", plan_table(planned.steps)]),
        dry_run=True,
        environment=str(run.ref),
        release=target.newest + 1,
        rollback_of=draft.rollback_of,
        plan=plan_document(planned.steps),
        replicas=planned.where_document(),
    )
