"""Patterns of environments in an operator's access."""

from __future__ import annotations

import pytest

from devopsellence.cli.store.rights import matches
from devopsellence.store.keys import EnvironmentRef

REF = EnvironmentRef("acme", "shop", "production")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*", True),
        ("acme/*", True),
        ("acme/shop/*", True),
        ("acme/shop/production", True),
        ("acme/shop/prod", False),
        ("acme/shop/staging", False),
        ("acme/other/*", False),
        ("ac/*", False),
        ("", False),
    ],
)
def test_pattern_stands_for_environments_below(pattern: str, *, expected: bool) -> None:
    assert matches(pattern, REF) is expected
