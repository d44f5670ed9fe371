"""Old app images of the engine that builds: their names are taken away, and the images go with the last one."""

from __future__ import annotations

from collections.abc import Iterable, Set
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from devopsellence.api.v1.stored_pb2 import Release
from devopsellence.cli.images.build import image_name, image_repository
from devopsellence.cli.images.docker_cli import DockerCli, LocalImage
from devopsellence.store.codec import decode
from devopsellence.store.errors import MalformedRecord
from devopsellence.store.etcd import Etcd, KeyValue

if TYPE_CHECKING:
    from devopsellence.store.keys import EnvironmentRef

#: The current release's images and those of the ten before it.
KEPT_RELEASES: Final = 11
#: Another deploy may have built it, and not written its release yet.
_FRESH: Final = timedelta(hours=1)


async def pinned_images(etcd: Etcd, ref: EnvironmentRef) -> set[str] | None:
    """What the latest releases of this project run, as they pin it; None if one cannot be read, because then nothing is
    known to be superfluous. An image is named for its project, whose other environments may be at another release."""
    listing = await etcd.list(f"{etcd.keys.all_releases_prefix}{ref.organization}/{ref.project}/")
    by_environment: dict[str, list[KeyValue]] = {}
    for item in listing.items:
        by_environment.setdefault(item.key.rpartition("/")[0], []).append(item)
    latest = [item for items in by_environment.values() for item in items[-KEPT_RELEASES:]]
    try:
        releases = [decode(Release, item.key, item.value) for item in latest]
    except MalformedRecord:
        return None
    return {service.image.pinned for release in releases for service in release.services}


async def prune(docker: DockerCli, ref: EnvironmentRef, keep: Set[str]) -> list[str]:
    """Take away the names of this project's app images that are not among ``keep`` (as releases pin them: ids, or
    ``repository@digest``); those names. One that a container uses stays.

    Raises:
        CliError: ``image_unreadable``, ``docker_missing``, ``docker_unavailable``.
    """
    images = await docker.named(image_repository(ref))
    return [name for name in unused_names(ref, images, keep, datetime.now(UTC)) if not await docker.untag(name)]


def unused_names(ref: EnvironmentRef, images: Iterable[LocalImage], keep: Set[str], now: datetime) -> list[str]:
    """The names of those of ``images`` that nothing needs, sorted. Pure."""
    names: list[str] = []
    for image in images:
        name = image_name(ref, image.id)
        if name in image.tags and keep.isdisjoint({image.id, *image.repo_digests}) and not _fresh(image.tagged_at, now):
            # Also the name that it was pushed by, which has the same tag (``registry``).
            names += [tag for tag in image.tags if tag.rpartition(":")[2] == name.rpartition(":")[2]]
    return sorted(names)


def _fresh(tagged_at: str, now: datetime) -> bool:
    """Whether an image was given its name lately; also where that is not known."""
    try:
        return now - datetime.fromisoformat(tagged_at) < _FRESH
    except (ValueError, TypeError):
        return True
