"""Many names in little room: a range in place of ``n001, n002, n003``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

_NUMBERED: Final = re.compile(r"(.*?)(\d+)")
# Fewer than this many in a row are named each.
_SHORTEST: Final = 3


def folded(names: Iterable[str], width: int | None = None) -> str:
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
