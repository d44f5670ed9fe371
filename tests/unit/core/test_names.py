"""The rule for names, and that the store's is the same."""

from __future__ import annotations

import pytest

from devopsellence.config import InvalidName, check_name
from devopsellence.store import keys


@pytest.mark.parametrize("name", ["a", "ShopApp", "web-1", "a.b_c", "0", "x" * 63])
def test_names(name: str) -> None:
    assert check_name("node", name) == name


@pytest.mark.parametrize("name", ["", "-a", ".a", "_a", "a/b", "a b", "ä", "a\n", "x" * 64, "..", "a\0"])
def test_invalid_name_is_refused_with_the_rule(name: str) -> None:
    with pytest.raises(InvalidName, match=r"node .* is not a name: a name is letters, digits"):
        check_name("node", name)


def test_store_uses_the_same_rule() -> None:
    assert keys.check_name is check_name
    assert keys.InvalidName is InvalidName
