"""Which other nodes' routers a node can turn to when nothing of its own can answer. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import cached_property
from hashlib import blake2b
from itertools import islice
from typing import Final, TypeAlias
from zlib import crc32

from devopsellence.agent_identity import api_address
from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.model.snapshot import NodeView
from devopsellence.store.keys import PEERS
from devopsellence.store.record import message_of

#: So many nodes are named to one that serves an ingress.
MAX_PEERS: Final = 8
# A router, and what tells it from others.
_Line: TypeAlias = tuple[pb.RouterPeer, bytes]


class PeerRouters:
    """The routers of the nodes that serve an ingress, each with the uid of its machine.

    A router stays one for as long as its node serves, also while its agent is away: where it answered last is read back
    from what others were told, in ``views``. So an agent that starts again changes nothing for the others.
    """

    def __init__(self, serving: Iterable[tuple[NodeView, str]], views: Sequence[NodeView]) -> None:
        self._views = views
        self._routers = [router for view, uid in serving if (router := self._router(view, uid)) is not None]
        #: The same for the same routers, also of two plans; quickly compared.
        self.mark = blake2b(b"".join(line for _, line in self._routers)).digest()

    def near(self, node: str) -> list[pb.RouterPeer]:
        """Whom ``node`` can turn to, sorted by name: all others, or, of more than eight, those that follow it."""
        ring = self._ring
        start = bisect_right(ring, _place(node), key=lambda one: one[0])
        following = (ring[(start + step) % len(ring)][1] for step in range(len(ring)))
        found = islice((router for router in following if router.node != node), MAX_PEERS)
        return sorted(found, key=lambda one: one.node)

    @cached_property
    def _ring(self) -> list[tuple[tuple[int, str], pb.RouterPeer]]:
        """By places that have nothing to do with their names, so that the nodes are spread evenly over each other, and
        one that comes or goes makes a difference to few."""
        return sorted(((_place(router.node), router) for router, _ in self._routers), key=lambda one: one[0])

    def _router(self, view: NodeView, uid: str) -> _Line | None:
        said = view.recall("router", (uid,), lambda: _said(view, uid))
        if said is not None:
            return said
        known = self._last_known.get((view.name, uid))
        return _line(known) if known is not None else None

    @cached_property
    def _last_known(self) -> dict[tuple[str, str], pb.RouterPeer]:
        """Where each router answered when that was last written for anybody, by node and uid."""
        records = [record for view in self._views if (record := view.parts.get(PEERS)) is not None]
        records.sort(key=lambda record: record.mod_revision)
        return {
            (peer.node, peer.uid): peer
            for record in records
            if record.message is not None
            for peer in record.message.peers
        }


def _place(node: str) -> tuple[int, str]:
    return crc32(node.encode()), node


def _said(view: NodeView, uid: str) -> _Line | None:
    """Where the node's router answers, as its agent says now; None if it says nothing."""
    node = message_of(view.node)
    beat = message_of(view.heartbeat)
    if beat is None or beat.uid != uid:
        return None
    address = api_address(node.address if node is not None else "", beat.router_address)
    return _line(pb.RouterPeer(node=view.name, uid=uid, address=address)) if address else None


def _line(router: pb.RouterPeer) -> _Line:
    return router, f"{router.node} {router.uid} {router.address}\n".encode()
