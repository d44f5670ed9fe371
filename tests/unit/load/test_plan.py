"""A plan's way between processes, and its shares."""

from __future__ import annotations

import pytest

from tests.support.load.plan import Plan

PLAN = Plan("10.0.0.1", 80, "shop.test", kept=3, new=2, rate=100.0, slow=1, sockets=2)


def test_plan_survives_serialization() -> None:
    assert Plan.of_json(PLAN.to_json()) == PLAN


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_shares_are_the_whole_together(processes: int) -> None:
    parts = PLAN.split(processes)
    assert len(parts) == min(processes, 3)
    for name in ("kept", "new", "slow", "sockets"):
        assert sum(getattr(part, name) for part in parts) == getattr(PLAN, name)
    assert sum(part.rate for part in parts) == pytest.approx(PLAN.rate)


def test_unlimited_rate_survives_serialization() -> None:
    assert {part.rate for part in Plan("10.0.0.1", 80, "x", rate=0.0).split(2)} == {0.0}
