"""Spool: entries of the audit trail that no gateway has stored yet, oldest first, bounded. Pure.

As lines of JSON, because the file is written with each change. An entry that has to go is counted, and the entry after
it says how many are missing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from devopsellence.api.v1.audit_pb2 import AuditEntry
from devopsellence.audit import MOST_REPORTED
from devopsellence.store.codec import encode, parse
from devopsellence.store.errors import MalformedRecord

MOST_ENTRIES: Final = 2_000
MOST_BYTES: Final = 1 << 20
_END: Final = b"\n"


class Spool:
    """Entries by the order of their arrival."""

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        #: Entries that are gone, before the oldest that is left.
        self._left_out = 0

    def __len__(self) -> int:
        return len(self._lines)

    def load(self, content: bytes) -> int:
        """Put the entries of a file before all others; return the number of lines that are no entries."""
        lines = [line for line in content.split(_END) if line]
        entries = [line for line in lines if _entry(line) is not None]
        later = list(self._lines)
        self._lines, self._bytes = deque(), 0
        for line in [*entries, *later]:
            self._append(line)
        return len(lines) - len(entries)

    def add(self, entry: AuditEntry) -> None:
        """Add an entry; the oldest go if there are too many."""
        self._append(encode(entry))

    def content(self) -> bytes:
        """Return the content of the file."""
        self._settle()
        return b"".join(line + _END for line in self._lines)

    def batch(self) -> list[AuditEntry]:
        """Return the oldest entries, to be sent in one report."""
        self._settle()
        oldest = [self._lines[at] for at in range(min(MOST_REPORTED, len(self._lines)))]
        return [entry for line in oldest if (entry := _entry(line)) is not None]

    def remove(self, entries: Sequence[AuditEntry]) -> None:
        """Remove the entries of a batch that was stored; those that went meanwhile are not missing any more."""
        stored = {entry.id for entry in entries}
        while self._lines and (entry := _entry(self._lines[0])) is not None and entry.id in stored:
            self._bytes -= len(self._lines.popleft())

    def _append(self, line: bytes) -> None:
        self._lines.append(line)
        self._bytes += len(line)
        while len(self._lines) > MOST_ENTRIES or (self._bytes > MOST_BYTES and len(self._lines) > 1):
            gone = self._lines.popleft()
            self._bytes -= len(gone)
            entry = _entry(gone)
            self._left_out += 1 + (entry.left_out if entry is not None else 0)

    def _settle(self) -> None:
        """Let the oldest entry say how many before it are gone."""
        if self._left_out and self._lines and (entry := _entry(self._lines[0])) is not None:
            entry.left_out += self._left_out
            self._left_out = 0
            self._bytes += len(encode(entry)) - len(self._lines[0])
            self._lines[0] = encode(entry)


def _entry(line: bytes) -> AuditEntry | None:
    try:
        return parse(AuditEntry, "", line)
    except MalformedRecord:
        return None
