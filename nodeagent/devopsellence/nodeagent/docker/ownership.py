"""Rules that tell this agent's containers and volumes from others with the same labels. Pure.

Labels prove nothing: ``docker commit`` puts a container's labels into an image, and every container of that image
inherits them; ``docker run --label`` sets any. So the agent writes an entry with a random nonce to its disk before it
creates a container, sets the nonce as a label, and notes the container's id after the creation. From then on the id
alone counts, also if somebody renames the container.

A container without an entry, such as one of version 0.1 or of a lost state folder, is adopted if its name is the one
that an agent gives to a container with these labels, and its image does not carry the labels itself.

Volumes that an image declares itself (``VOLUME``) are this agent's as well. Left to the engine, each container would
get new, anonymous ones, and a service would lose its data whenever its container is replaced. The agent names them
after the service and the path instead, so that they stay the same, and removes them with the service. A configured
volume at the same path takes precedence, and is never removed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from devopsellence.names import image_volume_source
from devopsellence.nodeagent.docker import names
from devopsellence.nodeagent.docker.model import Container, ForeignContainer, ImageVolume
from devopsellence.store.keys import EnvironmentRef

#: Labels with another value in each container, or in each spec: an image with the same value is a copy of a container.
_UNIQUE: Final = (names.LABEL_NONCE, names.LABEL_HASH, names.LABEL_ROUTER)
#: Names that the engine gives to anonymous volumes.
_ANONYMOUS: Final = re.compile(r"[0-9a-f]{64}\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class OwnedContainer:
    """Entry for a container of this agent. ``id`` is empty until the engine has returned the id."""

    name: str
    nonce: str
    id: str = ""


def adopted_entry(
    container: Container, image_labels: Mapping[str, str] | None, entries: Iterable[OwnedContainer]
) -> OwnedContainer | None:
    """Return the entry of a container that no entry names by its id yet; None if the container is not this agent's.

    ``image_labels``: labels of the container's image; None if the image is gone, which proves nothing.
    """
    labels = container.labels
    if image_labels is None or _inherits(labels, image_labels):
        return None
    nonce = labels.get(names.LABEL_NONCE, "")
    namesakes = [entry for entry in entries if entry.name == container.name]
    if any(not entry.id and entry.nonce == nonce for entry in namesakes):
        # Created by a call whose answer is on the way, or was lost.
        return OwnedContainer(container.name, nonce, container.id)
    if namesakes or not names.has_own_name(container.name, labels):
        # The entry of a container that somebody removed stays until its successor is created: nobody takes its place.
        return None
    return OwnedContainer(container.name, nonce, container.id)


def foreign_container(container: Container) -> ForeignContainer:
    """Return a container with this agent's labels as a foreign one."""
    taken = names.has_own_name(container.name, container.labels)
    return ForeignContainer(container.id, container.name, container.environment, container.service, taken)


def _inherits(labels: Mapping[str, str], image_labels: Mapping[str, str]) -> bool:
    return any(labels.get(label) and labels[label] == image_labels.get(label) for label in _UNIQUE)


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
