"""Names folded into ranges."""

from __future__ import annotations

import pytest

from devopsellence.cli.util.text import collapse_ranges


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], ""),
        (["n1"], "n1"),
        (["n1", "n2"], "n1, n2"),
        (["n3", "n1", "n2"], "n1\N{EN DASH}n3"),
        (["n1", "n2", "n4", "n5", "n6", "n9"], "n1, n2, n4\N{EN DASH}n6, n9"),
        (["n8", "n9", "n10", "n11"], "n8\N{EN DASH}n11"),
        (["n098", "n099", "n100", "n101"], "n098\N{EN DASH}n101"),
        # Written in two ways: not the same row of names.
        (["n08", "n09", "n10", "n9"], "n08, n09, n9, n10"),
        (["a1", "a2", "b3"], "a1, a2, b3"),
        (["web-a", "web-b", "web-c"], "web-a, web-b, web-c"),
        (["h1-1", "h1-2", "h1-3", "h2-1"], "h1-1\N{EN DASH}h1-3, h2-1"),
        (["7", "8", "9"], "7\N{EN DASH}9"),
    ],
)
def test_names_that_follow_on_one_another_become_a_range(names: list[str], text: str) -> None:
    assert collapse_ranges(names) == text


def test_what_is_too_long_is_counted() -> None:
    names = [f"n{number}" for number in range(1, 100, 2)]
    assert collapse_ranges(names, 22) == "n1, n3, n5 and 47 more"
    assert len(collapse_ranges(names, 30)) <= 30
    # Whatever the room, one is named.
    assert collapse_ranges(["a-very-long-name", "b"], 3) == "a-very-long-name and 1 more"
    assert collapse_ranges(["n1", "n2", "n3", "x"], 8) == "n1\N{EN DASH}n3, x"
