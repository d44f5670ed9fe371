"""Names in certificates."""

from __future__ import annotations

import pytest

from devopsellence.agent_identity import api_address, is_node, is_operator, server_name


def test_every_machine_has_a_server_name_of_its_own_that_is_a_dns_name() -> None:
    names = {server_name(uid) for uid in ("6c8f", "6C8F", "6c_8f", "a" * 63)}
    assert len(names) == 4
    assert all(len(label) <= 63 for name in names for label in name.split("."))


def test_no_certificate_does_for_a_machine_without_a_uid() -> None:
    with pytest.raises(ValueError, match="has no server name"):
        server_name("")


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


@pytest.mark.parametrize(
    ("common_name", "node"),
    [("node:8f3a", True), ("node:", False), ("node", False), ("operator:node:1", False), ("root", False), ("", False)],
)
def test_only_nodes_are_nodes(common_name: str, node: bool) -> None:
    assert is_node(common_name) is node


@pytest.mark.parametrize(
    ("registered", "said", "address"),
    [
        ("", "10.0.0.5:7443", "10.0.0.5:7443"),
        ("10.0.0.6", "0.0.0.0:7443", "10.0.0.6:7443"),
        ("web-1.internal", "[::]:7443", "web-1.internal:7443"),
        ("fd00::1", "0.0.0.0:7443", "[fd00::1]:7443"),
        ("10.0.0.6", "", ""),
        ("", "7443", ""),
    ],
)
def test_a_registered_address_stands_before_what_an_agent_says(registered: str, said: str, address: str) -> None:
    assert api_address(registered, said) == address
