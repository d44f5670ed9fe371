"""Text for people: ages, times, enums, lists of names, tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp

from devopsellence.cli.untrusted import safe

_STEPS: Final = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))
_NUMBERED: Final = re.compile(r"(.*?)(\d+)")
# Shortest run of names that is written as a range.
_SHORTEST: Final = 3


def age(seconds: float) -> str:
    """Return a duration in one or two units, such as ``7s``, ``3m20s``, ``5h``, ``12d``."""
    left = max(0, int(seconds))
    for index, (size, unit) in enumerate(_STEPS):
        if left >= size:
            text = f"{left // size}{unit}"
            # A second unit only for small values.
            if left // size < 10 and index + 1 < len(_STEPS):
                small, small_unit = _STEPS[index + 1]
                text += f"{left % size // small}{small_unit}" if left % size // small else ""
            return text
    return "0s"


def span(seconds: float) -> str:
    """Return a duration like :func:`age`, but below 10 s with tenths of a second."""
    return f"{seconds:.1f}s" if seconds < 10 else age(seconds)


def seconds_between(earlier: Timestamp, later: datetime) -> float:
    """Return the seconds from ``earlier`` to ``later``, at least 0, because clocks of two machines may differ."""
    return max(0.0, later.timestamp() - earlier.seconds - earlier.nanos / 1e9)


def since(stamp: Timestamp, now: datetime) -> str:
    """Return the age of ``stamp``; "" for an unset time."""
    return age(seconds_between(stamp, now)) if stamp.seconds else ""


def local_time(stamp: Timestamp) -> str:
    """Return ``stamp`` in local time, to the second; "" for an unset time."""
    if not stamp.seconds:
        return ""
    return datetime.fromtimestamp(stamp.seconds, tz=UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def iso(stamp: Timestamp) -> str | None:
    """Return ``stamp`` for JSON, in UTC; None for an unset time."""
    return stamp.ToJsonString() if stamp.seconds else None


def word(enum: Any, value: int) -> str:
    """Return the name of a protobuf enum value in lower case; "unknown" for an unspecified or unknown value."""
    try:
        name = str(enum.Name(value))
    except ValueError:
        return "unknown"
    return "unknown" if name.endswith("UNSPECIFIED") else name.lower().replace("_", " ")


def anonymous(reason: str, node: str) -> str:
    """Return a reason without the name of ``node``, so that equal reasons of different nodes are equal."""
    name = re.escape(node)
    return re.sub(rf"^{name}:? |,? (?:on|of|as) {name}\b", "", reason)


def plural(count: int, noun: str) -> str:
    """Return a count with a noun: ``1 service``, ``2 services``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def few(names: Sequence[str], most: int = 5) -> str:
    """Return names as ``a, b and 3 more``; all names up to ``most``."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"


def collapse_ranges(names: Iterable[str], width: int | None = None) -> str:
    """Return ``names`` in natural order, with consecutive numbers as ranges (``n1-n3``, with an en dash).

    ``width``: maximum length in characters; further names are counted: ``n1, n3, n5 and 7 more``. At least one name is
    listed.
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
    """Return a sort key that puts ``n9`` before ``n10``."""
    match = _NUMBERED.fullmatch(name)
    return (match[1], int(match[2]), name) if match else (name, -1, name)


def _runs(names: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Yield each name or range, with the number of its names."""
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
    """Return True if ``following`` is ``name`` with the next number, with the same zero padding."""
    first, second = _NUMBERED.fullmatch(name), _NUMBERED.fullmatch(following)
    if first is None or second is None or first[1] != second[1]:
        return False
    # n100 follows n099 and n99; n010 does not follow n9.
    return second[2] == str(int(first[2]) + 1).zfill(len(first[2]))


def columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a plain-text table: columns two spaces apart, no trailing spaces; each row stays on its line."""
    table = [list(header), *[[safe(cell) for cell in row] for row in rows]]
    widths = [max(len(row[index]) for row in table) for index in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
    return "\n".join(line.rstrip() for line in lines)
