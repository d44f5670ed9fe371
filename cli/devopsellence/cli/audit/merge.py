"""Entries of several gateways in one order, each once. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from devopsellence.api.v1.audit_pb2 import AuditEntry

#: Entries whose ids are remembered while following.
_MOST_KNOWN: Final = 50_000


def identity(entry: AuditEntry) -> tuple[str, str]:
    """Return what tells an entry from others: its id, and the machine that chose it."""
    return entry.reporter_uid, entry.id


def order(entry: AuditEntry) -> tuple[int, int, str]:
    """Return the sort key of an entry: its time, by the clock of its gateway."""
    return entry.at.seconds, entry.at.nanos, entry.id


def merged(entries: Iterable[AuditEntry]) -> list[AuditEntry]:
    """Return entries by time, of those stored several times the first."""
    first: dict[tuple[str, str], AuditEntry] = {}
    for entry in sorted(entries, key=order):
        first.setdefault(identity(entry), entry)
    return list(first.values())


class KnownEntries:
    """Entries that were shown before, as far back as is of use."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str], None] = OrderedDict()

    def new(self, entries: Iterable[AuditEntry]) -> list[AuditEntry]:
        """Return the entries that are not known, by time, and remember them."""
        found = [entry for entry in merged(entries) if identity(entry) not in self._known]
        for entry in found:
            self._known[identity(entry)] = None
        while len(self._known) > _MOST_KNOWN:
            self._known.popitem(last=False)
        return found
