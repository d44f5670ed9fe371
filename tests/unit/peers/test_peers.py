"""Names in certificates."""

from __future__ import annotations

import pytest

from devopsellence.peers import is_operator, server_name


def test_every_node_has_a_server_name_of_its_own_that_is_a_dns_name() -> None:
    names = {server_name(node) for node in ("web-1", "Web-1", "web_1", "a" * 63)}
    assert len(names) == 4
    assert all(len(label) <= 63 for name in names for label in name.split("."))


@pytest.mark.parametrize(
    ("common_name", "operator"),
    [
        ("root", True),
        ("operator:ann", True),
        ("operator:", False),
        ("operator", False),
        ("node:web-1", False),
        ("controller", False),
        ("", False),
    ],
)
def test_only_operators_are_operators(common_name: str, operator: bool) -> None:
    assert is_operator(common_name) is operator
