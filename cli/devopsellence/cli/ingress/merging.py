"""A text with a change in it that was made to another writing of the same text: layout and comments stay. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import Final

_IDLE: Final = re.compile(r"\s*(#.*)?$")


def merged(text: str, plain: str, changed: str) -> str:
    """``text`` with what is otherwise in ``changed`` than in ``plain``, which says the same as ``text``.

    Lines that did not change are those of ``text``. Comments and empty lines are never dropped; what is added comes
    before those that belong to what follows, because they are further out.
    """
    original, before, after = (each.splitlines(keepends=True) for each in (text, plain, changed))
    pieces = list(_pieces(original, before))
    result: list[str] = []
    for kind, start, end, new_start, new_end in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if kind == "equal":
            result += _as_written(pieces, start, end, after[new_start:new_end])
            continue
        added = after[new_start:new_end]
        place = _place(result, added) if kind == "insert" else len(result)
        kept = [line for line in before[start:end] if _IDLE.match(line) and line not in added]
        result[place:place] = [*added, *kept]
    return "".join(result)


def _pieces(original: Sequence[str], plain: Sequence[str]) -> Iterator[tuple[int, int, Sequence[str]]]:
    """Which lines of ``plain`` (from, to) are which of ``original``, in pieces as small as can be told."""
    for kind, start, end, new_start, new_end in SequenceMatcher(None, original, plain, autojunk=False).get_opcodes():
        if kind == "equal" or end - start == new_end - new_start:
            yield from ((new_start + at, new_start + at + 1, [original[start + at]]) for at in range(end - start))
        else:
            yield new_start, new_end, original[start:end]


def _as_written(
    pieces: Sequence[tuple[int, int, Sequence[str]]], start: int, end: int, otherwise: Sequence[str]
) -> Iterator[str]:
    """The lines ``start`` to ``end`` of the plain text as the original has them; those of a piece that is cut as
    ``otherwise`` has them."""
    for first, last, lines in pieces:
        if first == last:
            # Lines that the plain text has not; they stay with the line before them.
            yield from lines if start < first <= end or start == first == 0 else ()
        elif start <= first and last <= end:
            yield from lines
        elif first < end and last > start:
            yield from otherwise[max(first, start) - start : min(last, end) - start]


def _place(result: Sequence[str], added: Sequence[str]) -> int:
    """Where ``added`` goes, after ``result`` but for comments and empty lines that are further out."""
    place, indent = len(result), _indent(added[0]) if added else 0
    while (
        place
        and _IDLE.match(result[place - 1])
        and (not result[place - 1].strip() or _indent(result[place - 1]) < indent)
    ):
        place -= 1
    return place if indent else len(result)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))
