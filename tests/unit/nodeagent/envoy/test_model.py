"""Options of the router."""

from __future__ import annotations

import pytest

from devopsellence.nodeagent.envoy.model import peer_address


@pytest.mark.parametrize(
    ("api", "port", "address"),
    [
        ("10.0.0.5:7443", 7444, "10.0.0.5:7444"),
        ("[fd00::5]:7443", 7444, "[fd00::5]:7444"),
        ("0.0.0.0:7443", 7444, "vm1:7444"),
        ("[::]:7443", 7444, "vm1:7444"),
        ("", 7444, "vm1:7444"),
        ("10.0.0.5:7443", 0, ""),
    ],
)
def test_peer_address_for_api_address(api: str, port: int, address: str) -> None:
    assert peer_address(api, port, "vm1") == address
