"""Which nodes move now: pure, over small values.

A node is in flight from when it is assigned the target until it is done, as long as it answers. What interrupts
something waits until fewer than the limit are in flight; what interrupts nothing goes at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node whose assignment is to change."""

    name: str
    # Nothing is interrupted: nothing runs there, it is midway, or it stays at its release.
    free: bool = False
    # Its agent answers, so that it is in flight once it has moved.
    answers: bool = True
    # The release task has run there.
    first: bool = False
    # Half-way to what it is not to run any more.
    midway: bool = False
    # It is recorded to have moved: its place comes before anybody else's.
    promised: bool = False


def choose(candidates: Iterable[Candidate], in_flight: int, limit: int | None) -> list[str]:
    """Who of ``candidates`` moves now, in order.

    ``in_flight`` are those that have moved before and are not done; ``limit`` None: all may move.
    """
    ordered = sorted(candidates, key=lambda one: (not one.promised, not one.first, not one.midway, one.name))
    if limit is None:
        return [one.name for one in ordered]
    room = limit - in_flight - sum(1 for one in ordered if one.free and one.answers)
    chosen = []
    for one in ordered:
        if one.free:
            chosen.append(one.name)
        elif room > 0:
            room -= 1
            chosen.append(one.name)
    return chosen
