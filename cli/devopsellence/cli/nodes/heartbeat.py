"""End of the heartbeat of a machine that a node's record does not name any more."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from devopsellence.api.v1.stored_pb2 import Heartbeat
from devopsellence.store.codec import decode
from devopsellence.store.errors import MalformedRecord
from devopsellence.store.etcd import Compare, Delete, Etcd, KeyValue

# The agent writes its heartbeat again at once when the key is deleted, until every gateway has seen that the record
# changed, some tens of milliseconds later. What is written after these looks ends with its lease, within ten seconds.
_LOOKS: Final = 5
_PAUSE: Final = 0.2


async def end_heartbeat(etcd: Etcd, name: str, uid: str = "") -> None:
    """Delete the heartbeat of node ``name``, except one with ``uid``. May be repeated.

    Call this after the node's record has changed, so that the machine has no access any more. Only the key is deleted:
    its lease belongs to the agent, and a gateway revokes nobody else's.
    """
    key = etcd.keys.heartbeat(name)
    for _ in range(_LOOKS):
        stored = await etcd.get(key)
        if stored is None or _is_of(stored, uid):
            return
        # Not a heartbeat that another machine has written meanwhile.
        await etcd.txn([Compare.unmodified(key, stored.mod_revision)], [Delete(key)])
        await asyncio.sleep(_PAUSE)


def _is_of(stored: KeyValue, uid: str) -> bool:
    """Return True if the machine ``uid`` wrote a heartbeat."""
    with suppress(MalformedRecord):
        return bool(uid) and decode(Heartbeat, stored.key, stored.value).uid == uid
    return False
