"""Which images go straight to which nodes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from devopsellence.api.v1.agent_pb2 import FindImagesAnswer, ImageDescription
from devopsellence.api.v1.stored_pb2 import Node, Release
from devopsellence.cli.images.archive import Index
from devopsellence.cli.images.missing import Load
from devopsellence.cli.images.reference import IMAGE_ID
from devopsellence.placement import placed_on


@dataclass(frozen=True)
class Missing:
    """What one node lacks: images, and of their layers those to be sent with what of each has arrived already."""

    node: str
    images: tuple[str, ...]
    layers: Mapping[str, int]
    #: How many layers of those images the node has already.
    there: int
    free_mib: int


def images_by_node(draft: Release, nodes: Sequence[Node]) -> dict[str, list[str]]:
    """The ids of the images that each node will run, sorted; only nodes that run such an image, and only images pinned
    by id: what a registry has, agents pull."""
    found: dict[str, list[str]] = {}
    for node in nodes:
        pinned = {service.image.pinned for service in placed_on(node, draft.services)}
        if ids := sorted(image for image in pinned if IMAGE_ID.match(image)):
            found[node.name] = ids
    return found


def missing(node: str, asked: Iterable[ImageDescription], answer: FindImagesAnswer) -> Missing:
    """What a node's answer means; ``asked`` is what it was asked about, in order."""
    images: list[str] = []
    layers: dict[str, int] = {}
    there: set[str] = set()
    for image, found in zip(asked, answer.images, strict=True):
        if found.present:
            continue
        images.append(image.id)
        for digest, layer in zip(image.diff_ids, found.layers, strict=True):
            if layer.present or layer.staged:
                there.add(digest)
            else:
                layers[digest] = layer.staged_bytes
    # A layer that is there below others may be needed once more on top of others.
    return Missing(node, tuple(images), layers, len(there - layers.keys()), answer.disk_free_mib)


def load(lack: Missing, saved: Index) -> Load:
    """How much room that takes."""
    sizes = {digest: saved.layers[digest].size for digest in lack.layers}
    return Load(lack.node, sum(sizes.values()), sum(lack.layers.values()), lack.free_mib)
