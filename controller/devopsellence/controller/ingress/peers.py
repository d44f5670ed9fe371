"""Peer routers: other nodes that a router can forward requests to if its own node has no endpoint. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
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

#: Largest number of peers of a node that serves an ingress.
MAX_PEERS: Final = 8
#: A router and a line that identifies it.
_Line: TypeAlias = tuple[pb.RouterPeer, bytes]


@dataclass(frozen=True, slots=True)
class IngressServer:
    """Node that serves an ingress, with the uid of its machine. ``has_targets``: it runs the services of all rules.

    One without them, as a drained one, forwards requests, and gets none from others.
    """

    view: NodeView
    uid: str
    has_targets: bool = True


class PeerRouters:
    """Routers of the nodes that serve an ingress.

    A router remains a peer as long as its node serves the ingress, also while the agent is unreachable: the last
    address is read from the ingress parts of ``views``. So the restart of an agent changes nothing elsewhere.
    """

    def __init__(self, servers: Sequence[IngressServer], views: Sequence[NodeView]) -> None:
        self._views = views
        self._serving = [(server.view.name, server.uid) for server in servers]
        targets = [server for server in servers if server.has_targets]
        self._routers = [router for one in targets if (router := self._router(one.view, one.uid)) is not None]
        #: Equal for equal nodes and routers, also of two plans; quick to compare.
        lines = [*(f"{name} {uid}\n".encode() for name, uid in self._serving), *(line for _, line in self._routers)]
        self.mark = blake2b(b"".join(lines)).digest()

    def near(self, node: str) -> list[pb.RouterPeer]:
        """Return the peers of ``node``, sorted by name: all other routers, or the next eight on the ring."""
        ring = self._ring
        start = bisect_right(ring, _position(node), key=lambda entry: entry[0])
        following = (ring[(start + step) % len(ring)][1] for step in range(len(ring)))
        nearest = islice((router for router in following if router.node != node), MAX_PEERS)
        return sorted(nearest, key=lambda router: router.node)

    def forwarders(self, node: str) -> list[str]:
        """Return the uids of the nodes that have ``node`` as a peer, sorted; they need no router that is known."""
        return self._forwarders.get(node, [])

    @cached_property
    def _forwarders(self) -> dict[str, list[str]]:
        uids: dict[str, list[str]] = {}
        for name, uid in sorted(self._serving, key=lambda pair: pair[1]):
            for peer in self.near(name):
                uids.setdefault(peer.node, []).append(uid)
        return uids

    @cached_property
    def _ring(self) -> list[tuple[tuple[int, str], pb.RouterPeer]]:
        """Routers sorted by a hash of the node's name: an even spread, and a new or removed node concerns few nodes."""
        return sorted(((_position(router.node), router) for router, _ in self._routers), key=lambda entry: entry[0])

    def _router(self, view: NodeView, uid: str) -> _Line | None:
        reported = view.recall("router", (uid,), lambda: _reported(view, uid))
        if reported is not None:
            return reported
        known = self._last_known.get((view.name, uid))
        return _line(known) if known is not None else None

    @cached_property
    def _last_known(self) -> dict[tuple[str, str], pb.RouterPeer]:
        """Last written address of each router, by node and uid."""
        records = [record for view in self._views if (record := view.parts.get(PEERS)) is not None]
        records.sort(key=lambda record: record.mod_revision)
        return {
            (peer.node, peer.uid): peer
            for record in records
            if record.message is not None
            for peer in record.message.peers
        }


def _position(node: str) -> tuple[int, str]:
    return crc32(node.encode()), node


def _reported(view: NodeView, uid: str) -> _Line | None:
    """Return the router with the address in the heartbeat of its agent; None without an address."""
    node = message_of(view.node)
    beat = message_of(view.heartbeat)
    if beat is None or beat.uid != uid:
        return None
    address = api_address(node.address if node is not None else "", beat.router_address)
    return _line(pb.RouterPeer(node=view.name, uid=uid, address=address)) if address else None


def _line(router: pb.RouterPeer) -> _Line:
    return router, f"{router.node} {router.uid} {router.address}\n".encode()
