"""A deploy from beginning to end: check, build and pin, publish, follow."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from devopsellence.api.v1.stored_pb2 import Registry, Release
from devopsellence.cli import secrets
from devopsellence.cli.deploy import git, preflight, replicas
from devopsellence.cli.deploy import ingress as routed
from devopsellence.cli.deploy.follow import follow_release
from devopsellence.cli.deploy.publish import PublishTarget, publish, read_target
from devopsellence.cli.images.build import build
from devopsellence.cli.images.distribute import distribute
from devopsellence.cli.images.docker_cli import DockerCli
from devopsellence.cli.images.pin import Pin, pin_all, service_images
from devopsellence.cli.images.prune import pinned_images, prune
from devopsellence.cli.images.reference import IMAGE_ID
from devopsellence.cli.images.registry import push
from devopsellence.cli.output import CliError, Output
from devopsellence.cli.render import json
from devopsellence.cli.secrets import access
from devopsellence.cli.store import transaction
from devopsellence.cli.store.reader import concurrently
from devopsellence.cli.util.text import few
from devopsellence.store.errors import StoreError
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef

if TYPE_CHECKING:
    from devopsellence.config import Config, Resolved
    from devopsellence.store.settings import Settings

OPERATION: Final = "deploy"


@dataclass
class DeployRun:
    """One deploy: what was asked for, and how far it has got (for whoever is interrupted)."""

    ref: EnvironmentRef
    config: Config
    resolved: Resolved
    settings: Settings
    docker: DockerCli
    output: Output
    image: str | None
    message: str
    default_node: str
    stage: str = "nothing was written"


async def deploy(etcd: Etcd, run: DeployRun, *, detach: bool) -> None:
    """Deploy, and unless ``detach`` wait for the end; CliError when the rollout does not settle."""
    run.output.event(OPERATION, "started", environment=str(run.ref))
    target = await run_checks(etcd, run)
    pointing = asyncio.create_task(_pointing(etcd, run, target))
    try:
        draft = await _draft(etcd, run, target)
        for sentence in await pointing:
            run.output.warning(sentence)
    finally:
        pointing.cancel()
        await asyncio.gather(pointing, return_exceptions=True)
    run.stage = "the release may have been written: see devopsellence status"
    release, target = await publish(etcd, run.ref, draft, default_node=run.default_node)
    run.stage = f"release {release.number} is written and its rollout goes on: devopsellence status --watch"
    if target.attached_now:
        text = f"attached node {target.attached_now} to {run.ref}, which had no node"
        run.output.progress(OPERATION, text, stage="attached", node=target.attached_now)
    text = f"release {release.number} of {run.ref} is written"
    if detach:
        text = f"R{text[1:]}; follow it with devopsellence status --watch"
        run.output.result(OPERATION, text, release=json.release(release), detached=True)
        return
    run.output.progress(OPERATION, text, stage="released", release=json.release(release))
    await follow_release(etcd, run.ref, run.output, OPERATION, release)
    await _forget_old_images(etcd, run)


async def run_checks(etcd: Etcd, run: DeployRun) -> PublishTarget:
    """What can be known to fail, before anything is built."""
    target = await read_target(etcd, run.ref, default_node=run.default_node)
    for error in target.unreadable:
        run.output.warning(f"{error}; its node counts as not there")
    services = run.resolved.services
    assigned = await replicas.assignments(etcd, run.ref, services, target.nodes)
    problem = preflight.placement_error(run.ref.environment, services, target.nodes, assigned)
    if problem is not None:
        raise problem
    silent = await replicas.unreachable_nodes(etcd, services, target.nodes)
    for sentence in [
        *preflight.replica_warnings(services, target.nodes, assigned, silent),
        *preflight.dependency_warnings(services, target.nodes, assigned),
    ]:
        run.output.warning(sentence)
    ingress = run.resolved.ingress
    await routed.check_host_conflict(etcd, run.ref, ingress, target.nodes)
    if ingress is not None:
        for sentence in routed.warnings(ingress, routed.serving_nodes(ingress, services, target.nodes, assigned)):
            run.output.warning(sentence)
    if len(run.config.build.platforms) > 1:
        run.output.warning("build.platforms: only one platform is built, the engine's own if it is among them")
    return target


async def _pointing(etcd: Etcd, run: DeployRun, target: PublishTarget) -> list[str]:
    """What DNS says of the hosts, meanwhile: it warns, and refuses nothing."""
    ingress = run.resolved.ingress
    if ingress is None:
        return []
    from devopsellence.cli.ingress import dns
    from devopsellence.cli.ingress import dns_warnings as pointing

    assigned = await replicas.assignments(etcd, run.ref, run.resolved.services, target.nodes)
    serving = set(routed.serving_nodes(ingress, run.resolved.services, target.nodes, assigned))
    nodes = [node for node in target.nodes if node.name in serving]
    return await pointing.warnings(etcd, ingress.hosts, nodes, dns.resolver_address(None)) if nodes else []


async def _draft(etcd: Etcd, run: DeployRun, target: PublishTarget) -> Release:
    """The release to be, but for its number: secrets and images pinned, images where the nodes get them."""
    draft = unpinned_release(run)
    # Before the build: whoever has to set a secret first should not wait for it.
    registry = draft.registry if draft.HasField("registry") else None
    secrets.warn_of_keyless(run.output, await secrets.pin(etcd, run.ref, draft.services, registry, nodes=target.nodes))
    await _share_keys(etcd, run, target)
    # Before the build as well, which takes the files as they are now.
    draft.revision = await git.revision(run.config.path.parent)
    app, others = await concurrently(
        [_app_image(etcd, run, registry), pin_all(run.docker, service_images(draft.services), run.output)]
    )
    for service in draft.services:
        pin = app[""] if service.image.app else others[service.image.reference]
        service.image.reference, service.image.pinned = pin.reference, pin.pinned
    await distribute(etcd, run.settings, run.docker, draft, target.nodes, run.output)
    return draft


async def _share_keys(etcd: Etcd, run: DeployRun, target: PublishTarget) -> None:
    """Seal the certificates' keys for nodes that could not be sealed for when they were attached."""
    if run.resolved.ingress is None:
        return
    shared = await access.grant_certificate_keys(etcd, run.ref, [node.name for node in target.nodes])
    for problem in shared.problems:
        run.output.warning(f"{problem.key} is {problem.reason}")
    if shared.closed:
        mend = "the controller obtains another one, or devopsellence ingress cert install puts one there"
        run.output.warning(f"not every node can open the certificate's key of {few(shared.closed)}: {mend}")


def unpinned_release(run: DeployRun) -> Release:
    """What the configuration says, as a release without number, images and versions."""
    resolved = run.resolved
    draft = Release(
        organization=run.ref.organization,
        project=run.ref.project,
        environment=run.ref.environment,
        services=resolved.services,
        release_task=resolved.release_task,
        tasks=resolved.tasks,
        ingress=resolved.ingress,
        rollout=resolved.rollout,
        message=run.message,
        created_by=transaction.current_user(),
        created_at=transaction.now(),
    )
    if resolved.registry is not None:
        draft.registry.repository = resolved.registry.repository
        draft.registry.username = resolved.registry.username
        draft.registry.password_secret = resolved.registry.password_secret
    return draft


async def _app_image(etcd: Etcd, run: DeployRun, registry: Registry | None) -> dict[str, Pin]:
    """The app image under ""; nothing where no service uses it."""
    users = [service.name for service in run.resolved.services if service.image.app]
    if not users:
        if run.image:
            raise CliError("image_unused", "--image is given, but every service has an image of its own", exit_code=2)
        return {}
    if run.image:
        pin = (await pin_all(run.docker, {run.image: users}, run.output))[run.image]
    else:
        pin = await build(run.docker, run.config.build, run.ref, run.output)
    if registry is None or not IMAGE_ID.match(pin.pinned):
        return {"": pin}
    password = await secrets.registry_password(etcd, run.ref, registry)
    return {"": await push(run.docker, registry, password, pin.pinned, run.output)}


async def _forget_old_images(etcd: Etcd, run: DeployRun) -> None:
    """A release that has settled is no worse if this does not work."""
    try:
        needed = await pinned_images(etcd, run.ref)
        if needed is not None:
            await prune(run.docker, run.ref, needed)
    except (CliError, StoreError) as error:
        run.output.warning(f"older images are left on the engine that builds: {error}")
