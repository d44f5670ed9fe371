"""Small things in words: ages, times, enums; and text from elsewhere made safe for a terminal."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp

_STEPS: Final = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))
# Control characters, invisible formatting (such as a change of direction), lone surrogates.
_UNSAFE: Final = frozenset({"Cc", "Cf", "Cs"})
_NUMBERED: Final = re.compile(r"(.*?)(\d+)")
# Fewer than this many in a row are named each.
_SHORTEST: Final = 3


def age(seconds: float) -> str:
    """A length of time in its largest unit or two, such as ``7s``, ``3m20s``, ``5h``, ``12d``."""
    left = max(0, int(seconds))
    for index, (size, unit) in enumerate(_STEPS):
        if left >= size:
            text = f"{left // size}{unit}"
            # A second unit only where it still says something.
            if left // size < 10 and index + 1 < len(_STEPS):
                small, small_unit = _STEPS[index + 1]
                text += f"{left % size // small}{small_unit}" if left % size // small else ""
            return text
    return "0s"


def span(seconds: float) -> str:
    """As :func:`age`, but tenths of a second where they say something."""
    return f"{seconds:.1f}s" if seconds < 10 else age(seconds)


def seconds_between(earlier: Timestamp, later: datetime) -> float:
    """Seconds from ``earlier`` to ``later``, at least 0: clocks of two machines may differ, and this is for reading."""
    return max(0.0, later.timestamp() - earlier.seconds - earlier.nanos / 1e9)


def since(stamp: Timestamp, now: datetime) -> str:
    """The age of ``stamp``; "" when it is not set."""
    return age(seconds_between(stamp, now)) if stamp.seconds else ""


def local_time(stamp: Timestamp) -> str:
    """``stamp`` in local time, to the second; "" when it is not set."""
    if not stamp.seconds:
        return ""
    return datetime.fromtimestamp(stamp.seconds, tz=UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def iso(stamp: Timestamp) -> str | None:
    """``stamp`` for JSON, in UTC; None when it is not set."""
    return stamp.ToJsonString() if stamp.seconds else None


def word(enum: Any, value: int) -> str:
    """A value of a protobuf enum as people read it: lower case; "unknown" for none and for one not known here."""
    try:
        name = str(enum.Name(value))
    except ValueError:
        return "unknown"
    return "unknown" if name.endswith("UNSPECIFIED") else name.lower().replace("_", " ")


def safe(text: str) -> str:
    """``text`` without anything that would move a terminal's cursor or change its colours."""
    return (
        text
        if text.isprintable()
        else "".join(
            "\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) in _UNSAFE and c != "\t" else c for c in text
        )
    )


def anonymous(reason: str, node: str) -> str:
    """A sentence about ``node`` without its name, so that it says the same of every node."""
    name = re.escape(node)
    return re.sub(rf"^{name}:? |,? (?:on|of|as) {name}\b", "", reason)


def plural(count: int, noun: str) -> str:
    """``1 service``, ``2 services``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def few(names: Sequence[str], most: int = 5) -> str:
    """``a, b and 3 more``: all of them where they are not more than ``most``."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"


def collapse_ranges(names: Iterable[str], width: int | None = None) -> str:
    """``names`` in their natural order, those whose numbers follow on one another as ranges.

    ``width``: of what is longer, the end is left out and counted: ``n1, n3, n5 and 7 more``. At least one is named.
    """
    shown = ""
    runs = list(_runs(names))
    rest = sum(count for _, count in runs)
    for text, count in runs:
        rest -= count
        longer = f"{shown}, {text}" if shown else text
        more = f" and {rest} more" if rest else ""
        if width is not None and shown and len(longer) + len(more) > width:
            return f"{shown} and {rest + count} more"
        shown = longer
    return shown


def natural(name: str) -> tuple[str, int, str]:
    """A key to sort by that puts ``n9`` before ``n10``."""
    found = _NUMBERED.fullmatch(name)
    return (found[1], int(found[2]), name) if found else (name, -1, name)


def _runs(names: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Each name or range, and how many names it stands for."""
    run: list[str] = []
    for name in sorted(names, key=natural):
        if run and not _follows(run[-1], name):
            yield from _written(run)
            run = []
        run.append(name)
    yield from _written(run)


def _written(run: list[str]) -> Iterator[tuple[str, int]]:
    if len(run) < _SHORTEST:
        yield from ((name, 1) for name in run)
    else:
        yield f"{run[0]}\N{EN DASH}{run[-1]}", len(run)


def _follows(name: str, following: str) -> bool:
    """Whether ``following`` is ``name`` with the next number, written in the same way."""
    one, two = _NUMBERED.fullmatch(name), _NUMBERED.fullmatch(following)
    if one is None or two is None or one[1] != two[1]:
        return False
    # n099 is followed by n100, n99 as well; n9 is not followed by n010.
    return two[2] == str(int(one[2]) + 1).zfill(len(one[2]))


def columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in plain text: columns two spaces apart, no line ends with a space."""
    table = [list(header), *[list(row) for row in rows]]
    widths = [max(len(row[index]) for row in table) for index in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
    return "\n".join(line.rstrip() for line in lines)
