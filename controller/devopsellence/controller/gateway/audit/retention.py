"""Files of the audit trail: their names, and the decision which of them go. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final

_NAME: Final = re.compile(r"(?P<kind>[a-z]+)-(?P<day>\d{4}-\d\d-\d\d)\.(?P<part>\d{4,})\.jsonl\Z")
#: Share of the space that one file may take: what goes at once when the space is used up.
_SHARE: Final = 8
_LARGEST_PART: Final = 8 << 20


@dataclass(frozen=True, slots=True, order=True)
class AuditFile:
    """File with entries of one day; a day has several if they are many."""

    day: date
    part: int
    size: int = 0

    def name(self, kind: str) -> str:
        return f"{kind}-{self.day.isoformat()}.{self.part:04}.jsonl"


@dataclass(frozen=True)
class Removal:
    """Files to remove. ``for_space``: some go before their time."""

    files: tuple[AuditFile, ...]
    for_space: bool


def parse_name(kind: str, name: str, size: int) -> AuditFile | None:
    """Return the file of a name; None for a file of another kind."""
    match = _NAME.match(name)
    if match is None or match["kind"] != kind:
        return None
    try:
        return AuditFile(date.fromisoformat(match["day"]), int(match["part"]), size)
    except ValueError:
        return None


def day_of(seconds: float) -> date:
    """Return the day in UTC."""
    return datetime.fromtimestamp(seconds, UTC).date()


def largest_part(max_bytes: int) -> int:
    """Return the size from which on a new file is begun."""
    return min(_LARGEST_PART, max_bytes // _SHARE)


def removal(files: Iterable[AuditFile], today: date, days: int, max_bytes: int) -> Removal:
    """Return the files that are older than ``days``, and the oldest of the others as long as all are too large.

    The newest file stays.
    """
    known = sorted(files)
    first = today - timedelta(days=days)
    left = [file for file in known if file.day >= first or file is known[-1]]
    used, over = sum(file.size for file in left), 0
    while used > max_bytes and over < len(left) - 1:
        used -= left[over].size
        over += 1
    staying = set(left[over:])
    return Removal(tuple(file for file in known if file not in staying), bool(over))
