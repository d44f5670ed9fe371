"""Removal of old app images from the local Docker Engine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from devopsellence.api.v1.stored_pb2 import Release, Rollout
from devopsellence.cli.images.build import image_name, image_repository
from devopsellence.cli.images.docker_cli import DockerCli, LocalImage
from devopsellence.cli.store.snapshot import releases_named_by, settled_before, target_of
from devopsellence.store.codec import decode
from devopsellence.store.errors import MalformedRecord
from devopsellence.store.etcd import Etcd, KeyValue

if TYPE_CHECKING:
    from devopsellence.store.keys import EnvironmentRef

#: Releases with kept images: the current release and the ten before.
KEPT_RELEASES: Final = 11
#: Newer images are kept: a concurrent deploy may not have written its release yet.
_FRESH: Final = timedelta(hours=1)


async def pinned_images(etcd: Etcd, ref: EnvironmentRef) -> set[str] | None:
    """Return the images pinned by the latest releases of all environments of the project, and by those that run.

    The releases that a failed rollout, or ``release rollback``, returns to belong to them, however old. None if a
    release or a rollout is unreadable, because then no image is known to be unused.
    """
    listing = await etcd.list(f"{etcd.keys.all_releases_prefix}{ref.organization}/{ref.project}/")
    by_environment: dict[str, list[KeyValue]] = {}
    for item in listing.items:
        by_environment.setdefault(f"{item.key.rpartition('/')[0]}/", []).append(item)
    try:
        named = await _named_by_rollouts(etcd, ref, {item.key: item for item in listing.items})
        releases = [
            decode(Release, item.key, item.value) for items in by_environment.values() for item in kept(items, named)
        ]
    except MalformedRecord:
        return None
    return {service.image.pinned for release in releases for service in release.services}


async def _named_by_rollouts(etcd: Etcd, ref: EnvironmentRef, releases: Mapping[str, KeyValue]) -> set[str]:
    """Return the keys of the rollout targets of all environments of the project, and of the releases to return to.

    ``releases``: all releases of the project by key.
    """
    named = set[str]()
    for item in (await etcd.list(f"{etcd.keys.rollouts_prefix}{ref.organization}/{ref.project}/")).items:
        with suppress(ValueError):
            environment = etcd.keys.parse_environment(item.key)
            rollout = decode(Rollout, item.key, item.value)
            running = releases.get(etcd.keys.release(environment, target_of(rollout)))
            origin = decode(Release, running.key, running.value).rollback_of if running is not None else 0
            numbers = {*releases_named_by(rollout), settled_before(rollout, origin or target_of(rollout))} - {0}
            named |= {etcd.keys.release(environment, number) for number in numbers}
    return named


def kept(items: Sequence[KeyValue], named: Set[str]) -> list[KeyValue]:
    """Return the releases with kept images of an environment's ``items``: the latest, and the ``named`` keys. Pure."""
    return [item for index, item in enumerate(items) if index >= len(items) - KEPT_RELEASES or item.key in named]


async def prune(docker: DockerCli, ref: EnvironmentRef, keep: Set[str]) -> list[str]:
    """Remove the tags of the project's app images not in ``keep`` and return the removed tags.

    ``keep`` has ids or ``repository@digest``, as pinned by releases. Images used by a container stay.

    Raises:
        CliError: ``image_unreadable``, ``docker_missing``, ``docker_unavailable``.
    """
    images = await docker.named(image_repository(ref))
    return [name for name in unused_names(ref, images, keep, datetime.now(UTC)) if not await docker.untag(name)]


def unused_names(ref: EnvironmentRef, images: Iterable[LocalImage], keep: Set[str], now: datetime) -> list[str]:
    """Return the tags of unused images, sorted. Pure."""
    names: list[str] = []
    for image in images:
        name = image_name(ref, image.id)
        if name in image.tags and keep.isdisjoint({image.id, *image.repo_digests}) and not _fresh(image.tagged_at, now):
            # Also the name pushed to a registry, which has the same tag.
            names += [tag for tag in image.tags if tag.rpartition(":")[2] == name.rpartition(":")[2]]
    return sorted(names)


def _fresh(tagged_at: str, now: datetime) -> bool:
    """Return True if an image was tagged recently, or if the time is not known."""
    try:
        return now - datetime.fromisoformat(tagged_at) < _FRESH
    except (ValueError, TypeError):
        return True
