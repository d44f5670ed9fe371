"""Access records of operators."""

from __future__ import annotations

from devopsellence.access.rights import FULL_ROLES, Rights, record_of
from devopsellence.store.codec import encode


def full_access(operator: str) -> bytes:
    """Return the record of an operator with all roles in all environments."""
    return encode(record_of(operator, Rights(frozenset((role, "*") for role in FULL_ROLES))))
