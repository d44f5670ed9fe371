"""Checks of entries that a node reports: about its own API, bounded, and marked as reported by that node. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from devopsellence.api.v1.audit_pb2 import AuditEntry
from devopsellence.audit import MOST_REPORTED, bound
from devopsellence.controller.gateway.rules.caller import Caller, Role
from devopsellence.controller.gateway.rules.refusal import RefusalKind, Refused, denied, invalid
from devopsellence.rate import Rate, TokenBucket

_ID: Final = re.compile(r"[0-9a-f]{8,64}\Z", re.ASCII)
#: A person's commands, hundreds of them each day. What a hostile node sends takes the space of other nodes' entries.
_ENTRIES: Final = Rate(4_000, 0.05)
_BYTES: Final = Rate(4 << 20, 20)


def accepted(caller: Caller, entries: Iterable[AuditEntry]) -> list[AuditEntry]:
    """Return the entries of a report as they are stored, but for the time.

    Raises:
        Refused: the caller is no node, or an entry cannot be one of a node.
    """
    if caller.role is not Role.NODE:
        raise denied(f"{caller.identity} is no node, and only nodes report calls of their API")
    kept = [_accepted(caller, entry) for entry in entries]
    if len(kept) > MOST_REPORTED:
        raise invalid(f"a report of {len(kept)} entries, and {MOST_REPORTED} are the most")
    return kept


def _accepted(caller: Caller, reported: AuditEntry) -> AuditEntry:
    if not _ID.match(reported.id):
        raise invalid("an entry of the audit trail without a valid id")
    if reported.outcome not in AuditEntry.Outcome.values():
        raise invalid("an entry of the audit trail with an unknown outcome")
    try:
        reported.node_time.ToJsonString()
    except ValueError as error:
        raise invalid("an entry of the audit trail with an impossible time") from error
    entry = AuditEntry()
    entry.CopyFrom(reported)
    entry.DiscardUnknownFields()
    for field in ("at", "keys", "caller_node"):
        entry.ClearField(field)
    del entry.nodes[:]
    entry.nodes.append(caller.name)
    entry.reported_by, entry.reporter_uid = caller.name, caller.uid
    return bound(entry)


class ReportLimits:
    """Limits of the reports of each node at this gateway."""

    def __init__(self) -> None:
        self._buckets: dict[str, tuple[TokenBucket, TokenBucket]] = {}

    def take(self, caller: Caller, entries: int, size: int, now: float) -> None:
        """Take a report.

        Raises:
            Refused: the node has reported too much.
        """
        fresh = TokenBucket(_ENTRIES, now), TokenBucket(_BYTES, now)
        buckets = self._buckets.setdefault(caller.identity, fresh)
        amounts = (entries, size)
        if not all(bucket.has(amount, now) for bucket, amount in zip(buckets, amounts, strict=True)):
            raise Refused(RefusalKind.EXHAUSTED, "the limit of reported entries of the audit trail is used up")
        for bucket, amount in zip(buckets, amounts, strict=True):
            bucket.take(amount)
