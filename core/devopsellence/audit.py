"""Entries of the audit trail: creation, limits of size, and limits of refusals, for gateways and agents alike. Pure."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from devopsellence.access.certificate import Certificate
from devopsellence.api.v1.audit_pb2 import AuditEntry
from devopsellence.rate import Rate, TokenBucket

#: Most entries in one report of a node.
MOST_REPORTED: Final = 200
#: Method of entries about the trail itself, and about entries that a node has dropped.
TRAIL: Final = "AuditTrail"
_LONGEST_TEXT: Final = 300
_LONGEST_SUMMARY: Final = 600
_CUT: Final = "…"
_TEXTS: Final = ("id", "caller", "caller_node", "serial", "peer", "call", "reason", "begin")
#: Characters of all texts of a list.
_LISTS: Final = {"environments": 1_000, "nodes": 1_000, "services": 1_000, "keys": 1_000, "command": 2_000}
#: Refusals of one caller that are recorded: a caller that is refused in a loop must not fill the space of others.
RECORDED_REFUSALS: Final = Rate(50, 1 / 60)


@dataclass(frozen=True, slots=True)
class CallSource:
    """Origin of a call: the caller's certificate, the address, and the name of a node that calls."""

    certificate: Certificate
    peer: str
    node: str = ""

    @classmethod
    def of(cls, certificate: Certificate, peer: str) -> CallSource:
        """Return the origin for the address as gRPC names it: ``ipv4:10.0.0.1:4711`` or ``ipv6:%5B::1%5D:4711``."""
        kind, _, address = peer.partition(":")
        return cls(certificate, unquote(address) if kind in ("ipv4", "ipv6") else peer)

    def entry(self, call: str, outcome: AuditEntry.Outcome.ValueType, reason: str = "") -> AuditEntry:
        """Return a new entry about a call from here."""
        return AuditEntry(
            id=new_id(),
            caller=self.certificate.common_name,
            caller_node=self.node,
            serial=self.certificate.serial,
            peer=self.peer,
            call=call,
            outcome=outcome,
            reason=reason,
        )


def new_id() -> str:
    """Return a random id for an entry."""
    return secrets.token_hex(12)


def bound(entry: AuditEntry) -> AuditEntry:
    """Cut what is too long in an entry, and return it."""
    for field in _TEXTS:
        _set_text(entry, field, _LONGEST_TEXT)
    _set_text(entry, "summary", _LONGEST_SUMMARY)
    for field, room in _LISTS.items():
        texts = getattr(entry, field)
        kept = list(cut_list(texts, room))
        del texts[:]
        texts.extend(kept)
    return entry


def cut_list(texts: Iterable[str], room: int) -> Iterable[str]:
    """Yield texts until all together have ``room`` characters."""
    for text in texts:
        if room <= 0:
            yield _CUT
            return
        yield _cut(text, room)
        # An empty text takes room as well.
        room -= len(text) + 1


def _set_text(entry: AuditEntry, field: str, most: int) -> None:
    text = getattr(entry, field)
    if len(text) > most:
        setattr(entry, field, _cut(text, most))


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + _CUT


class RefusalBudget:
    """Refusals of each caller that may be noted at one place, at a rate."""

    def __init__(self, rate: Rate = RECORDED_REFUSALS) -> None:
        self._rate = rate
        self._buckets: dict[str, TokenBucket] = {}
        self._left_out: dict[str, int] = {}

    def take(self, caller: str, now: float) -> int | None:
        """Take a refusal; return the number of those left out before it, None if this one is left out as well."""
        bucket = self._buckets.setdefault(caller, TokenBucket(self._rate, now))
        if not bucket.has(1, now):
            self._left_out[caller] = self._left_out.get(caller, 0) + 1
            return None
        bucket.take(1)
        return self._left_out.pop(caller, 0)
