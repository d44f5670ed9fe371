"""Volumes that an image declares itself (``VOLUME``). Pure.

Left to the engine, each container would get new, anonymous ones, and a service would lose its data whenever its
container is replaced. The agent names them after the service and the path instead, so that they stay the same, and
removes them with the service. A configured volume at the same path takes precedence, and is never removed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from devopsellence.names import image_volume_source
from devopsellence.nodeagent.docker import names
from devopsellence.nodeagent.docker.model import Container, ImageVolume
from devopsellence.store.keys import EnvironmentRef

#: Names that the engine gives to anonymous volumes.
_ANONYMOUS: Final = re.compile(r"[0-9a-f]{64}\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class MountedVolumes:
    """Names of the volumes of a container, by path: those configured, and those that only its image declares."""

    configured: Mapping[str, str]
    declared: Mapping[str, str]

    @property
    def by_path(self) -> Mapping[str, str]:
        return {**self.configured, **self.declared}


def image_volume(node_uid: str, ref: EnvironmentRef, service: str, target: str) -> ImageVolume:
    """Return the volume for a path that the image of a service declares."""
    name = names.volume_name(node_uid, ref, image_volume_source(service, target))
    return ImageVolume(name, str(ref), service, target)


def adopted_volumes(container: Container) -> tuple[ImageVolume, ...]:
    """Return the volumes of a service's adopted container that its image declares, also anonymous ones."""
    if container.task or not container.service:
        return ()
    declared = names.parse_image_volumes(container.labels.get(names.LABEL_IMAGE_VOLUMES, ""))
    return tuple(
        ImageVolume(name, container.environment, container.service, target)
        for target, name in sorted(container.volumes.items())
        if target in declared or _ANONYMOUS.match(name)
    )


def with_volumes(known: tuple[ImageVolume, ...], more: Iterable[ImageVolume]) -> tuple[ImageVolume, ...]:
    """Return the known volumes with more of them, the last ones last: these have the data."""
    added = tuple(more)
    return (*(volume for volume in known if volume not in added), *added)
