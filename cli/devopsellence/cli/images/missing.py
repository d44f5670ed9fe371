"""Images and layers missing on the nodes, and the disk space for them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from devopsellence.api.v1.agent_pb2 import FindImagesAnswer, ImageDescription
from devopsellence.api.v1.stored_pb2 import Node, Release
from devopsellence.cli.images.archive import ArchiveIndex
from devopsellence.cli.images.reference import IMAGE_ID
from devopsellence.cli.output import CliError, Finding, NextAction
from devopsellence.placement import placed_on


@dataclass(frozen=True)
class MissingImages:
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


def missing_images(node: str, asked: Iterable[ImageDescription], answer: FindImagesAnswer) -> MissingImages:
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
    return MissingImages(node, tuple(images), layers, len(there - layers.keys()), answer.disk_free_mib)


def disk_demand(lack: MissingImages, saved: ArchiveIndex) -> DiskDemand:
    """How much room that takes."""
    sizes = {digest: saved.layers[digest].size for digest in lack.layers}
    return DiskDemand(lack.node, sum(sizes.values()), sum(lack.layers.values()), lack.free_mib)


#: What a layer takes while it is loaded: as it was sent, in the archive that the engine unpacks first, and as itself.
FACTOR: Final = 3
#: What is left for everything else on the disk.
MARGIN_MIB: Final = 256
_MIB: Final = 1 << 20


@dataclass(frozen=True)
class DiskDemand:
    """What one node would have to take: ``missing`` bytes of layers, of which ``staged`` have arrived already."""

    node: str
    missing: int
    staged: int
    free_mib: int

    @property
    def need_mib(self) -> int:
        """What has to be free on its disk; 0 when nothing is to be sent."""
        if not self.missing:
            return 0
        return -(-(FACTOR * self.missing - self.staged) // _MIB) + MARGIN_MIB


def check_disk_space(loads: Iterable[DiskDemand]) -> CliError | None:
    """The error for nodes that have too little, all of them at once; None when all have enough."""
    short = [load for load in loads if load.need_mib > load.free_mib]
    if not short:
        return None
    findings = [_finding(load) for load in short]
    if len(short) == 1:
        return CliError("no_room", findings[0].message, findings=findings)
    names = ", ".join(load.node for load in short)
    return CliError("no_room", f"{len(short)} nodes have too little room for the images: {names}", findings=findings)


def _finding(load: DiskDemand) -> Finding:
    layers = f"{load.missing / _MIB:.0f} MiB of new layers"
    message = f"node {load.node} has {load.free_mib} MiB free and needs {load.need_mib} MiB for {layers}"
    mend = NextAction("make room there", "docker system prune, on that machine")
    return Finding("no_room", message, next_actions=(mend,))
