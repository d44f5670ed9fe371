"""Lease ids that carry their owner, so that every gateway knows whom a lease belongs to without a record. Pure.

A lease's id has 63 bits: a hash of the owner's identity, then random bits. Only a gateway chooses ids, and a caller can
use only ids with its own hash.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Final

_OWNER_BITS: Final = 39
#: Bits that distinguish the leases of one owner; etcd refuses an id that is in use.
RANDOM_BITS: Final = 63 - _OWNER_BITS


def lease_id(owner: str, random: int) -> int:
    """Return the id of a lease of ``owner``; ``random`` has :data:`RANDOM_BITS` bits."""
    # 0 would ask etcd to choose an id.
    return (_owner_tag(owner) << RANDOM_BITS | random) or 1


def owns(owner: str, lease: int) -> bool:
    """Return True if ``lease`` was granted to ``owner`` by a gateway."""
    return lease > 0 and lease >> RANDOM_BITS == _owner_tag(owner)


@lru_cache(maxsize=16_384)
def _owner_tag(owner: str) -> int:
    return int.from_bytes(hashlib.sha256(owner.encode()).digest()[:8]) >> (64 - _OWNER_BITS)
