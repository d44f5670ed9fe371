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
from devopsellence.placement import services_for_node


@dataclass(frozen=True)
class MissingImages:
    """Images missing on a node, and the layers to upload with the bytes already staged, by digest."""

    node: str
    images: tuple[str, ...]
    layers: Mapping[str, int]
    #: Number of layers of the missing images already on the node.
    there: int
    free_mib: int


def images_by_node(draft: Release, nodes: Sequence[Node]) -> dict[str, list[str]]:
    """Return the sorted ids of the images to upload, by node.

    Only images pinned by id: agents pull images pinned by a registry digest. Nodes without such images are left out.
    """
    images: dict[str, list[str]] = {}
    for node in nodes:
        pinned = {service.image.pinned for service in services_for_node(node, draft.services)}
        if ids := sorted(image for image in pinned if IMAGE_ID.match(image)):
            images[node.name] = ids
    return images


def missing_images(node: str, asked: Iterable[ImageDescription], answer: FindImagesAnswer) -> MissingImages:
    """Return the missing images from the answer of a node to a question about ``asked``, in order."""
    images: list[str] = []
    layers: dict[str, int] = {}
    there: set[str] = set()
    for image, image_answer in zip(asked, answer.images, strict=True):
        if image_answer.present:
            continue
        images.append(image.id)
        for digest, layer in zip(image.diff_ids, image_answer.layers, strict=True):
            if layer.present or layer.staged:
                there.add(digest)
            else:
                layers[digest] = layer.staged_bytes
    # A layer present in an image may be missing for another image with different layers below.
    return MissingImages(node, tuple(images), layers, len(there - layers.keys()), answer.disk_free_mib)


def disk_demand(missing: MissingImages, saved: ArchiveIndex) -> DiskDemand:
    """Return the disk space needed for the missing layers."""
    sizes = {digest: saved.layers[digest].size for digest in missing.layers}
    return DiskDemand(missing.node, sum(sizes.values()), sum(missing.layers.values()), missing.free_mib)


#: Copies of a layer during loading: the upload, the archive unpacked by Docker, and the layer itself.
FACTOR: Final = 3
#: MiB left free for everything else on the disk.
MARGIN_MIB: Final = 256
_MIB: Final = 1 << 20


@dataclass(frozen=True)
class DiskDemand:
    """Disk space needed on a node: ``missing`` bytes of layers, ``staged`` bytes of which are already uploaded."""

    node: str
    missing: int
    staged: int
    free_mib: int

    @property
    def need_mib(self) -> int:
        """Free disk space needed, in MiB; 0 if nothing is missing."""
        if not self.missing:
            return 0
        return -(-(FACTOR * self.missing - self.staged) // _MIB) + MARGIN_MIB


def check_disk_space(loads: Iterable[DiskDemand]) -> CliError | None:
    """Return the error about all nodes with too little disk space; None if there are none."""
    short = [demand for demand in loads if demand.need_mib > demand.free_mib]
    if not short:
        return None
    findings = [_finding(demand) for demand in short]
    if len(short) == 1:
        return CliError("no_room", findings[0].message, findings=findings)
    names = ", ".join(demand.node for demand in short)
    return CliError(
        "no_room", f"{len(short)} nodes have too little disk space for the images: {names}", findings=findings
    )


def _finding(demand: DiskDemand) -> Finding:
    layers = f"{demand.missing / _MIB:.0f} MiB of new layers"
    message = f"node {demand.node} has {demand.free_mib} MiB free and needs {demand.need_mib} MiB for {layers}"
    fix = NextAction("free disk space", f"docker system prune (on {demand.node})")
    leave_out = NextAction("or leave the node out", f"devopsellence node cordon {demand.node}")
    return Finding("no_room", message, next_actions=(fix, leave_out))
