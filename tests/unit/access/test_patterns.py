"""Patterns of environments."""

from __future__ import annotations

import pytest

from devopsellence.access.patterns import covers

OWN = "acme/shop/production"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*", True),
        ("acme/*", True),
        ("acme/shop/*", True),
        (OWN, True),
        ("acme/shop/prod", False),
        ("acme/shop/staging", False),
        ("acme/other/*", False),
        ("ac/*", False),
    ],
)
def test_pattern_stands_for_environments_below(pattern: str, *, expected: bool) -> None:
    assert covers(pattern, OWN) is expected
