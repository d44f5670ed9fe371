"""Image peers: nodes to pull images from that are in no registry. Pure.

The command line uploads such images to the reachable nodes. Nodes that were unreachable, or were added later, lack the
images, and their assignments name nodes that run the release already. Peers are a hint only: a peer without the image
refuses, and the agent asks the next peer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final, TypeAlias
from zlib import crc32

from devopsellence.agent_identity import api_address
from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.model.snapshot import NodeView
from devopsellence.controller.rollout.node_progress import NodeProgress
from devopsellence.store.record import message_of

#: Largest number of image peers in an assignment.
MAX_IMAGE_PEERS: Final = 3
Images: TypeAlias = frozenset[str]
_ID: Final = "sha256:"


def images_of(assignment: pb.Assignment) -> Images:
    """Return the images of the services that are pinned by id, and so are in no registry."""
    return frozenset(service.image.pinned for service in assignment.services if service.image.pinned.startswith(_ID))


class ImagePeers:
    """Nodes that have settled at release ``target`` and can serve images; worked out on first use."""

    def __init__(self, nodes: Iterable[tuple[NodeView, NodeProgress]], target: int) -> None:
        self._nodes = nodes
        self._target = target
        # Peers by their images, sorted by name.
        self._known: dict[Images, list[pb.Peer]] | None = None

    def choose(self, node: str, images: Images) -> list[pb.Peer]:
        """Return at most three peers of ``node`` that together have as many of ``images`` as possible.

        The first peer differs between nodes, so that load is spread.
        """
        groups = {held: peers for held, peers in self._holders.items() if held & images}
        used: Counter[Images] = Counter()
        chosen: list[pb.Peer] = []
        lacking = images
        while len(chosen) < MAX_IMAGE_PEERS and (
            left := [held for held, peers in groups.items() if used[held] < len(peers)]
        ):
            held = max(left, key=lambda held: (len(held & lacking), len(held & images), sorted(held)))
            peer = groups[held][(crc32(node.encode()) + used[held]) % len(groups[held])]
            used[held] += 1
            if peer.node != node:
                chosen.append(peer)
                lacking = lacking - held or images
        return chosen

    def has(self, peer: pb.Peer) -> bool:
        """Return whether ``peer`` could be chosen now."""
        return any(peer in peers for peers in self._holders.values())

    @property
    def _holders(self) -> dict[Images, list[pb.Peer]]:
        if self._known is None:
            self._known = {}
            for view, progress in self._nodes:
                if progress.done and progress.release == self._target:
                    images, peer = view.recall("held images", (), lambda view=view: _held(view))  # type: ignore[misc]
                    if images and peer is not None:
                        self._known.setdefault(images, []).append(peer)
        return self._known


def missing_images(view: NodeView) -> Images:
    """Return the images that the node lacks, or, if its agent is of an earlier version, may lack."""
    return view.recall("missing images", (), lambda: _lacking(view))


def _held(view: NodeView) -> tuple[Images, pb.Peer | None]:
    """Return the images that the node can serve, and its address as a peer."""
    assignment = view.current_assignment
    node = message_of(view.node)
    beat = message_of(view.heartbeat)
    if assignment is None or node is None or beat is None or not node.uid == beat.uid == assignment.node_uid:
        return frozenset(), None
    address = api_address(node.address, beat.api_address)
    return images_of(assignment), pb.Peer(node=view.name, uid=node.uid, api_address=address) if address else None


def _lacking(view: NodeView) -> Images:
    assignment = view.current_assignment
    status = message_of(view.status)
    if assignment is None or status is None:
        return frozenset()
    if (status.node_uid, status.generation) != (assignment.node_uid, assignment.generation):
        return frozenset()
    # Agents of version 0.1 do not say whether an image is missing; a service without an exit may never have started.
    stuck = {
        service.name
        for service in status.services
        if service.image_missing or (service.phase == pb.ServiceStatus.BACKOFF and not service.HasField("last_exit"))
    }
    pinned = (service.image.pinned for service in assignment.services if service.name in stuck)
    return frozenset(image for image in pinned if image.startswith(_ID))
