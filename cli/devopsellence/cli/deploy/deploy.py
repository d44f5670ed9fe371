"""``deploy``: preflight checks, build and pin images, publish the release, follow the rollout."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from devopsellence.access.roles import Action
from devopsellence.api.v1.stored_pb2 import Release
from devopsellence.cli import secrets
from devopsellence.cli.deploy import git, preflight, replicas, size
from devopsellence.cli.deploy import ingress as deploy_ingress
from devopsellence.cli.deploy.follow import follow_release
from devopsellence.cli.deploy.image_volumes import add_image_volumes
from devopsellence.cli.deploy.publish import PublishTarget, publish, read_target
from devopsellence.cli.images.build import build
from devopsellence.cli.images.distribute import distribute
from devopsellence.cli.images.docker_cli import DockerCli
from devopsellence.cli.images.pin import Pin, pin_all, service_images
from devopsellence.cli.images.prune import pinned_images, prune
from devopsellence.cli.images.reference import IMAGE_ID
from devopsellence.cli.images.registry import PasswordLogin, check_logins, logged_in, push
from devopsellence.cli.output import CliError, NextAction, Output
from devopsellence.cli.render import json
from devopsellence.cli.secrets import access
from devopsellence.cli.store import transaction
from devopsellence.cli.store.reader import concurrently
from devopsellence.cli.store.rights import check_environment
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
    """Options of a deploy, and ``stage``, the text about its progress for an interrupted user."""

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
    """Deploy and, unless ``detach``, follow the rollout; CliError if the rollout does not settle."""
    run.output.event(OPERATION, "started", environment=str(run.ref))
    target = await run_checks(etcd, run)
    dns_check = asyncio.create_task(_dns_warnings(etcd, run, target))
    try:
        draft = await _draft(etcd, run, target)
        for sentence in await dns_check:
            run.output.warning(sentence)
    finally:
        dns_check.cancel()
        await asyncio.gather(dns_check, return_exceptions=True)
    run.stage = "the release may have been written; check with devopsellence status"
    release, target = await publish(etcd, run.ref, draft, default_node=run.default_node)
    run.stage = f"the rollout of release {release.number} continues; follow with devopsellence status --watch"
    if target.attached_now:
        text = f"attached node {target.attached_now} to {run.ref}, which had no node"
        run.output.progress(OPERATION, text, stage="attached", node=target.attached_now)
    text = f"created release {release.number} of {run.ref}"
    if detach:
        text = f"C{text[1:]}; follow with devopsellence status --watch"
        watch = NextAction("follow the rollout", "devopsellence status --watch")
        run.output.result(OPERATION, text, release=json.release(release), detached=True, next_actions=[watch])
        return
    run.output.progress(OPERATION, text, stage="released", release=json.release(release))
    await follow_release(etcd, run.ref, run.output, OPERATION, release)
    await _remove_old_images(etcd, run)


async def run_checks(etcd: Etcd, run: DeployRun) -> PublishTarget:
    """Run the preflight checks and return the environment with its nodes; nothing has been built yet.

    Raises:
        CliError: ``etcd_permission_denied``, ``no_node_for_service``, ``dependency_unreachable``, ``ingress_conflict``.
    """
    await check_environment(etcd, run.ref, Action.DEPLOY)
    target = await read_target(etcd, run.ref, default_node=run.default_node)
    for error in target.unreadable:
        run.output.warning(f"{error}; the node is ignored")
    services = run.resolved.services
    current = await replicas.read_copies(etcd, run.ref, services, target.nodes)
    problem = preflight.placement_error(
        run.ref.environment, services, target.nodes, current
    ) or preflight.dependency_error(run.ref.environment, services, target.nodes, current)
    if problem is not None:
        raise problem
    for sentence in [
        *preflight.replica_warnings(services, target.nodes, current),
        *preflight.dependency_warnings(services, target.nodes, current),
    ]:
        run.output.warning(sentence)
    ingress = run.resolved.ingress
    await deploy_ingress.check_host_conflict(etcd, run.ref, ingress, target.nodes)
    if ingress is not None:
        for sentence in deploy_ingress.warnings(
            ingress, deploy_ingress.serving_nodes(ingress, services, target.nodes, current)
        ):
            run.output.warning(sentence)
    if len(run.config.build.platforms) > 1:
        run.output.warning("build.platforms: only one platform is built, that of the Docker Engine if listed")
    return target


async def _dns_warnings(etcd: Etcd, run: DeployRun, target: PublishTarget) -> list[str]:
    """Return warnings about DNS records of the ingress hosts; runs beside the build and blocks nothing."""
    ingress = run.resolved.ingress
    if ingress is None:
        return []
    from devopsellence.cli.ingress import dns, dns_warnings

    current = await replicas.read_copies(etcd, run.ref, run.resolved.services, target.nodes)
    serving = set(deploy_ingress.serving_nodes(ingress, run.resolved.services, target.nodes, current))
    nodes = [node for node in target.nodes if node.name in serving]
    return await dns_warnings.warnings(etcd, ingress.hosts, nodes, dns.resolver_address(None)) if nodes else []


async def _draft(etcd: Etcd, run: DeployRun, target: PublishTarget) -> Release:
    """Return the release without a number: secrets and images pinned, images uploaded or pushed."""
    draft = unpinned_release(run)
    for service in draft.services:
        if service.image.app and run.image and not IMAGE_ID.match(run.image):
            # Overwritten by the name of the pinned image; until then it says which login the nodes need.
            service.image.reference = run.image
    # Before the build, so that a missing secret, too large a release or a wrong password is reported at once.
    stored = await secrets.pin_versions(etcd, run.ref, draft)
    await size.check(etcd, run.ref, draft, target.nodes, stored)
    secrets.warn_of_keyless(run.output, await secrets.pin(etcd, run.ref, draft, nodes=target.nodes))
    passwords = [
        PasswordLogin(login.host, login.username, await secrets.registry_password(etcd, run.ref, login))
        for login in draft.registry_logins
    ]
    await check_logins(run.docker, passwords)
    await _share_keys(etcd, run, target)
    # Before the build, so that the revision describes the files that are built.
    draft.revision = await git.revision(run.config.path.parent)
    run.stage = "nothing was written: images were being built, pulled or pushed"
    with logged_in(run.docker, passwords) as docker:
        app, others = await concurrently(
            [_app_image(etcd, run, draft, docker), pin_all(docker, service_images(draft.services), run.output)]
        )
    for service in draft.services:
        pin = app[""] if service.image.app else others[service.image.reference]
        service.image.reference, service.image.pinned = pin.reference, pin.pinned
    for sentence in await add_image_volumes(run.docker, draft.services, run.config.path.name):
        run.output.warning(sentence)
    run.stage = "no release was written: images were being sent to the nodes, which keep what has arrived"
    await distribute(etcd, run.settings, run.docker, draft, target.nodes, run.output)
    return draft


async def _share_keys(etcd: Etcd, run: DeployRun, target: PublishTarget) -> None:
    """Encrypt the certificates' private keys for nodes without an age key at the time of attaching."""
    if run.resolved.ingress is None:
        return
    shared = await access.grant_certificate_keys(etcd, run.ref, [node.name for node in target.nodes])
    for problem in shared.problems:
        run.output.warning(f"{problem.key} is {problem.reason}")
    if shared.undecryptable:
        fix = "the controller obtains a new certificate, or install one with devopsellence ingress cert install"
        run.output.warning(
            f"not every node can decrypt the private key of the certificate of {few(shared.undecryptable)}: {fix}"
        )


def unpinned_release(run: DeployRun) -> Release:
    """Return the release described by the configuration, without number, images and secret versions."""
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
        created_at=transaction.now(),
    )
    if resolved.registry is not None:
        draft.registry.repository = resolved.registry.repository
        draft.registry.username = resolved.registry.username
        draft.registry.password_secret = resolved.registry.password_secret
    for login in resolved.registries:
        draft.registry_logins.add(host=login.host, username=login.username, password_secret=login.password_secret)
    return draft


async def _app_image(etcd: Etcd, run: DeployRun, draft: Release, docker: DockerCli) -> dict[str, Pin]:
    """Build or pin the app image and return it under ""; an empty dict if no service uses the app image."""
    users = [service.name for service in run.resolved.services if service.image.app]
    if not users:
        if run.image:
            raise CliError("image_unused", "--image has no effect: every service names its own image", exit_code=2)
        return {}
    if run.image:
        pin = (await pin_all(docker, {run.image: users}, run.output))[run.image]
    else:
        pin = await build(docker, run.config.build, run.ref, run.output)
    if not draft.HasField("registry") or not IMAGE_ID.match(pin.pinned):
        return {"": pin}
    own = draft.registry.password_secret
    password = await secrets.registry_password(etcd, run.ref, draft.registry) if own else ""
    return {"": await push(docker, draft.registry, password, pin.pinned, run.output)}


async def _remove_old_images(etcd: Etcd, run: DeployRun) -> None:
    """Remove old images from the Docker Engine of this machine; a failure is only a warning."""
    try:
        needed = await pinned_images(etcd, run.ref)
        if needed is not None:
            await prune(run.docker, run.ref, needed)
    except (CliError, StoreError) as error:
        run.output.warning(f"old images were not removed from the Docker Engine of this machine: {error}")
