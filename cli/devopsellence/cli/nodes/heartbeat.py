"""End of the heartbeat of a machine that a node's record does not name any more."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from devopsellence.api.v1.stored_pb2 import Heartbeat, Node
from devopsellence.store.codec import decode
from devopsellence.store.errors import MalformedRecord
from devopsellence.store.etcd import Compare, Delete, Etcd, KeyValue

# The agent writes its heartbeat again at once when the key is deleted, until every gateway has seen that the record
# changed, some tens of milliseconds later. What is written after these looks ends with its lease, within ten seconds.
_LOOKS: Final = 5
_PAUSE: Final = 0.2


async def end_heartbeat(etcd: Etcd, name: str) -> None:
    """Delete the heartbeat of node ``name``, except that of the machine in the node's record. May be repeated.

    Call this after the record has changed, so that the machine before has no access any more. Only the key is deleted:
    its lease belongs to the agent, and a gateway revokes nobody else's.
    """
    for _ in range(_LOOKS):
        beat, node = await etcd.get(etcd.keys.heartbeat(name)), await etcd.get(etcd.keys.node(name))
        if beat is None or _is_of(beat, node):
            return
        # Not a heartbeat that another machine has written meanwhile.
        await etcd.txn([Compare.unmodified(beat.key, beat.mod_revision)], [Delete(beat.key)])
        await asyncio.sleep(_PAUSE)


def _is_of(beat: KeyValue, node: KeyValue | None) -> bool:
    """Return True if the machine in a node's record wrote the heartbeat."""
    with suppress(MalformedRecord):
        if node is not None:
            return decode(Heartbeat, beat.key, beat.value).uid == decode(Node, node.key, node.value).uid
    return False
