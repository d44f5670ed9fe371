"""A deploy from beginning to end: check, build and pin, publish, follow."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from devopsellence.api.v1.stored_pb2 import Release
from devopsellence.cli import write
from devopsellence.cli.output import CliError, Output
from devopsellence.cli.read import together
from devopsellence.cli.release import check, source
from devopsellence.cli.release.build import build
from devopsellence.cli.release.engine import Docker
from devopsellence.cli.release.follow import failure, follow
from devopsellence.cli.release.pin import Pin, pin_all, references
from devopsellence.cli.release.publish import Target, publish, read_target
from devopsellence.cli.view import document
from devopsellence.cli.view.rows import rows
from devopsellence.cli.view.text import rollout_line
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef

if TYPE_CHECKING:
    from devopsellence.config import Config, Resolved

OPERATION: Final = "deploy"
# Seconds beyond the progress deadline that the controller has to say that it has passed.
_MARGIN: Final = 30.0


@dataclass
class Deploy:
    """One deploy: what was asked for, and how far it has got (for whoever is interrupted)."""

    ref: EnvironmentRef
    config: Config
    resolved: Resolved
    docker: Docker
    output: Output
    image: str | None
    message: str
    default_node: str
    stage: str = "nothing was written"


async def deploy(etcd: Etcd, run: Deploy, *, detach: bool) -> None:
    """Deploy, and unless ``detach`` wait for the end; CliError when the rollout does not settle."""
    run.output.event(OPERATION, "started", environment=str(run.ref))
    await checked(etcd, run)
    _warn_of_what_is_not_there_yet(run)
    draft = await _draft(run)
    run.stage = "the release may have been written: see devopsellence status"
    release, target = await publish(etcd, run.ref, draft, default_node=run.default_node)
    run.stage = f"release {release.number} is written and its rollout goes on: devopsellence status --watch"
    if target.attached_now:
        text = f"attached node {target.attached_now} to {run.ref}, which had no node"
        run.output.progress(OPERATION, text, stage="attached", node=target.attached_now)
    text = f"release {release.number} of {run.ref} is written"
    if detach:
        text = f"R{text[1:]}; follow it with devopsellence status --watch"
        run.output.result(OPERATION, text, release=document.release(release), detached=True)
        return
    run.output.progress(OPERATION, text, stage="released", release=document.release(release))
    await _follow(etcd, run, release)


async def checked(etcd: Etcd, run: Deploy) -> Target:
    """What can be known to fail, before anything is built."""
    target = await read_target(etcd, run.ref, default_node=run.default_node)
    for error in target.unreadable:
        run.output.warning(f"{error}; its node counts as not there")
    environment, services = run.ref.environment, run.resolved.services
    problem = (
        check.no_node(environment, services, target.nodes)
        or check.secrets(environment, services)
        or check.release_task(environment, run.resolved.release_task)
    )
    if problem is not None:
        raise problem
    return target


def _warn_of_what_is_not_there_yet(run: Deploy) -> None:
    waits = [service.name for service in run.resolved.services if service.depends_on or service.HasField("readiness")]
    if waits:
        run.output.warning(f"readiness and depends_on have no effect in this version ({', '.join(waits)})")
    if run.resolved.ingress is not None:
        run.output.warning("ingress is recorded in the release, but this version does not serve it")
    if run.resolved.registry is not None:
        run.output.warning("registry is not used by this version: nodes need the app image on their own engine")
    if len(run.config.build.platforms) > 1:
        run.output.warning("build.platforms: only one platform is built, the engine's own if it is among them")


async def _draft(run: Deploy) -> Release:
    """The release to be, but for its number: images built and pinned."""
    resolved = run.resolved
    # Before the build, which takes the files as they are now.
    revision = await source.revision(run.config.path.parent)
    app, others = await together([_app_image(run), pin_all(run.docker, references(resolved.services), run.output)])
    draft = Release(
        organization=run.ref.organization,
        project=run.ref.project,
        environment=run.ref.environment,
        release_task=resolved.release_task,
        tasks=resolved.tasks,
        ingress=resolved.ingress,
        rollout=resolved.rollout,
        revision=revision,
        message=run.message,
        created_by=write.who(),
        created_at=write.now(),
    )
    for service in resolved.services:
        pin = app[""] if service.image.app else others[service.image.reference]
        copy = draft.services.add()
        copy.CopyFrom(service)
        copy.image.reference, copy.image.pinned = pin.reference, pin.pinned
    return draft


async def _app_image(run: Deploy) -> dict[str, Pin]:
    """The app image under ""; nothing where no service uses it."""
    users = [service.name for service in run.resolved.services if service.image.app]
    if not users:
        if run.image:
            raise CliError("image_unused", "--image is given, but every service has an image of its own", exit_code=2)
        return {}
    if run.image:
        return {"": (await pin_all(run.docker, {run.image: users}, run.output))[run.image]}
    return {"": await build(run.docker, run.config.build, run.ref, run.output)}


async def _follow(etcd: Etcd, run: Deploy, release: Release) -> None:
    patience = run.resolved.rollout.progress_deadline.ToTimedelta().total_seconds() + _MARGIN
    snapshot, verdict = await follow(etcd, run.ref, run.output, OPERATION, number=release.number, patience=patience)
    now = datetime.now(UTC)
    table = rows(snapshot, now)
    # What did not settle is still on the screen where there is one.
    problem = failure(snapshot, release.number, verdict, [] if run.output.live else table)
    if problem is not None:
        raise problem
    run.output.result(
        OPERATION,
        f"Release {release.number} of {run.ref} is {rollout_line(snapshot, now)}",
        release=document.release(release),
        rollout=document.rollout(snapshot),
        services=[document.row(row) for row in table],
    )
