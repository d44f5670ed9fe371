"""Limit of nodes that update at the same time (``deploy.max_parallel``)."""

from __future__ import annotations

from typing import Final

#: Default for a release without the field; the CLI always writes the field.
DEFAULT_MAX_PARALLEL: Final = "25%"


def limit_of(max_parallel: str, nodes: int) -> int:
    """Return the number of ``nodes`` that may update at once, at least 1; ``max_parallel`` as in RolloutPolicy."""
    written = max_parallel or DEFAULT_MAX_PARALLEL
    number = written.removesuffix("%")
    if not (number.isascii() and number.isdecimal()):
        return 1
    return max(1, int(number) if number == written else nodes * int(number) // 100)
