"""How many nodes of an environment may be on their way to another release at once."""

from __future__ import annotations

from typing import Final

#: For a release that says nothing about it, which the command line does not write.
DEFAULT_MAX_PARALLEL: Final = "25%"


def limit_of(max_parallel: str, nodes: int) -> int:
    """How many of ``nodes`` may move at once: ``max_parallel`` as in RolloutPolicy; at least one."""
    written = max_parallel or DEFAULT_MAX_PARALLEL
    number = written.removesuffix("%")
    if not (number.isascii() and number.isdecimal()):
        return 1
    return max(1, int(number) if number == written else nodes * int(number) // 100)
