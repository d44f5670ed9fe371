"""Names in certificates."""

from __future__ import annotations

import pytest

from devopsellence.agent_identity import api_address, is_node, is_operator, server_name


def test_server_names_are_unique_dns_names() -> None:
    names = {server_name(uid) for uid in ("6c8f", "6C8F", "6c_8f", "a" * 63)}
    assert len(names) == 4
    assert all(len(label) <= 63 for name in names for label in name.split("."))


def test_machine_without_uid_has_no_server_name() -> None:
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
def test_operator_common_names(common_name: str, operator: bool) -> None:
    assert is_operator(common_name) is operator


@pytest.mark.parametrize(
    ("common_name", "node"),
    [("node:8f3a", True), ("node:", False), ("node", False), ("operator:node:1", False), ("root", False), ("", False)],
)
def test_node_common_names(common_name: str, node: bool) -> None:
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
def test_registered_address_overrides_reported_host(registered: str, said: str, address: str) -> None:
    assert api_address(registered, said) == address
