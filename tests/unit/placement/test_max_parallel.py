"""Limit of nodes updated at the same time, as a table."""

from __future__ import annotations

import pytest

from devopsellence.placement.max_parallel import limit_of


@pytest.mark.parametrize(
    ("max_parallel", "nodes", "limit"),
    [
        ("1", 10, 1),
        ("2", 10, 2),
        ("7", 3, 7),
        ("1", 5, 1),
        ("3", 5, 3),
        ("9", 5, 9),
        ("25%", 1, 1),
        ("25%", 3, 1),
        ("25%", 8, 2),
        ("25%", 11, 2),
        ("25%", 300, 75),
        ("25%", 0, 1),
        ("50%", 3, 1),
        ("50%", 0, 1),
        ("100%", 3, 3),
        ("100%", 7, 7),
        ("1%", 3000, 30),
        ("0", 5, 1),
        ("", 8, 2),
        ("many", 8, 1),
        ("nonsense", 8, 1),
        ("-1", 8, 1),
        ("-3", 8, 1),
        ("²", 8, 1),
    ],
)
def test_limit_is_a_count_or_a_share_rounded_down_and_at_least_one(max_parallel: str, nodes: int, limit: int) -> None:
    assert limit_of(max_parallel, nodes) == limit
