"""Groups of figures can be chosen, and may be measured with or without an event loop."""

from __future__ import annotations

from bench.__main__ import Group, measure
from bench.report import Figure


def plain(runs: int) -> list[Figure]:
    return [Figure("plain", "s", [1.0] * runs)]


async def looped(runs: int) -> list[Figure]:
    return [Figure("looped", "s", [1.0] * runs)]


def test_chosen_groups_run_in_order() -> None:
    known: dict[str, Group] = {"plain": plain, "looped": looped}
    assert [one.name for one in measure(["looped", "plain"], 2, known)] == ["looped", "plain"]
    assert [one.name for one in measure(["plain"], 1, known)] == ["plain"]
