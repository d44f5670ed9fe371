"""Which nodes another one can ask for images that come from no registry. Pure.

The command line sends such images straight to the nodes that are there. Who was away, or came later, lacks them, and is
told of nodes that run the release already. That is a hint and nothing rests on it: whoever is asked and cannot help
says so, and the next one is asked.
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

#: So many nodes are named to one that may lack an image.
MOST: Final = 3
Images: TypeAlias = frozenset[str]
_ID: Final = "sha256:"


def images_of(assignment: pb.Assignment) -> Images:
    """The images of its services that are pinned by id: no registry has them."""
    return frozenset(service.image.pinned for service in assignment.services if service.image.pinned.startswith(_ID))


class ImagePeers:
    """The nodes that run ``target`` and can be asked, out of ``judged``; looked through when somebody needs one."""

    def __init__(self, judged: Iterable[tuple[NodeView, NodeProgress]], target: int) -> None:
        self._judged = judged
        self._target = target
        # By the images that they have, in order of their names.
        self._known: dict[Images, list[pb.Peer]] | None = None

    def choose(self, node: str, images: Images) -> list[pb.Peer]:
        """Whom ``node`` can ask for ``images``, at most three: together they have what can be had, and not every node
        is sent to the same ones first."""
        groups = {held: peers for held, peers in self._holders.items() if held & images}
        taken: Counter[Images] = Counter()
        chosen: list[pb.Peer] = []
        lacking = images
        while len(chosen) < MOST and (left := [held for held, peers in groups.items() if taken[held] < len(peers)]):
            held = max(left, key=lambda one: (len(one & lacking), len(one & images), sorted(one)))
            peer = groups[held][(crc32(node.encode()) + taken[held]) % len(groups[held])]
            taken[held] += 1
            if peer.node != node:
                chosen.append(peer)
                lacking = lacking - held or images
        return chosen

    def has(self, peer: pb.Peer) -> bool:
        """Whether ``peer`` is one that could be chosen now."""
        return any(peer in peers for peers in self._holders.values())

    @property
    def _holders(self) -> dict[Images, list[pb.Peer]]:
        if self._known is None:
            self._known = {}
            for view, progress in self._judged:
                if progress.done and progress.release == self._target:
                    images, peer = view.recall("holds", (), lambda view=view: _held(view))  # type: ignore[misc]
                    if images and peer is not None:
                        self._known.setdefault(images, []).append(peer)
        return self._known


def missing_images(view: NodeView) -> Images:
    """The images that the node may lack: those of services whose containers it could not make or start.

    A service that has begun and ended has its image, so it is not meant.
    """
    return view.recall("lacks", (), lambda: _lacking(view))


def _held(view: NodeView) -> tuple[Images, pb.Peer | None]:
    """What the node can be asked for, and where."""
    found = view.current_assignment
    node = message_of(view.node)
    beat = message_of(view.heartbeat)
    if found is None or node is None or beat is None or not node.uid == beat.uid == found.node_uid:
        return frozenset(), None
    address = api_address(node.address, beat.api_address)
    return images_of(found), pb.Peer(node=view.name, uid=node.uid, api_address=address) if address else None


def _lacking(view: NodeView) -> Images:
    found = view.current_assignment
    status = message_of(view.status)
    if found is None or status is None:
        return frozenset()
    if (status.node_uid, status.generation) != (found.node_uid, found.generation):
        return frozenset()
    stuck = {
        service.name
        for service in status.services
        if service.phase == pb.ServiceStatus.BACKOFF and not service.HasField("last_exit")
    }
    pinned = (service.image.pinned for service in found.services if service.name in stuck)
    return frozenset(image for image in pinned if image.startswith(_ID))
