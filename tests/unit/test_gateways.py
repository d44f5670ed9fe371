"""Addresses of gateways: one form, unusable records, and the endpoints of a client."""

from __future__ import annotations

import pytest

from devopsellence.api.v1.stored_pb2 import Gateways
from devopsellence.gateways import (
    MOST_GATEWAYS,
    InvalidGateways,
    endpoints_with,
    gateway_address,
    gateway_addresses,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.1:2381", "10.0.0.1:2381"),
        ("10.0.0.1:02381", "10.0.0.1:2381"),
        ("[fd00:0:0::1]:2381", "[fd00::1]:2381"),
    ],
)
def test_address_has_one_form(text: str, expected: str) -> None:
    assert gateway_address(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", ":2381", "10.0.0.1", "10.0.0.1:", "10.0.0.1:0", "10.0.0.1:65536", "10.0.0.1:²", "10.0.0.1:-1"),
        *("10.0.0.1:2381,10.0.0.2:2381", "10.0.0.01:2381", "fd00::1:2381", "[10.0.0.1]:2381", "[fe80::1%eth0]:2381"),
        *("gateway.example:2381", "unix:///run/etcd.sock", "https://10.0.0.1:2381", " 10.0.0.1:2381", "\ud800:1"),
        *("0.0.0.0:2381", "[::]:2381", "224.0.0.1:2381", "10.0.0.1:" + "9" * 5000, "x" * 1_000_000 + ":1"),
    ],
)
def test_malformed_address_is_refused_with_a_short_message(text: str) -> None:
    with pytest.raises(InvalidGateways) as refused:
        gateway_address(text)
    assert len(str(refused.value)) < 300


def test_record_is_used_as_a_whole_or_not_at_all() -> None:
    most = [f"10.0.1.{number}:2381" for number in range(MOST_GATEWAYS)]
    assert gateway_addresses(Gateways(addresses=most)) == tuple(most)
    assert gateway_addresses(Gateways(addresses=["10.0.0.1:2381", "10.0.0.1:02381"])) == ("10.0.0.1:2381",)
    for bad in ([*most, "10.0.0.1:2381"], ["10.0.0.1:2381", "nonsense"]):
        with pytest.raises(InvalidGateways):
            gateway_addresses(Gateways(addresses=bad))


@pytest.mark.parametrize(
    ("configured", "learned", "expected"),
    [
        (["10.0.0.1:1"], [], ["10.0.0.1:1"]),
        (["10.0.0.1:1"], ["10.0.0.2:1", "10.0.0.1:1"], ["10.0.0.1:1", "10.0.0.2:1"]),
        pytest.param(["10.0.0.1:1"], ["[fd00::1]:1"], ["10.0.0.1:1"], id="of the other kind"),
        pytest.param(["[fd00:0::1]:1"], ["[fd00::1]:1", "10.0.0.1:1"], ["[fd00:0::1]:1"], id="known in another form"),
        pytest.param(["gw.example:1"], ["10.0.0.2:1"], ["gw.example:1"], id="a name stands alone"),
        pytest.param(["10.0.0.1:1"], ["127.0.0.1:1"], ["10.0.0.1:1"], id="another machine's loopback"),
        pytest.param(["127.0.0.1:1"], ["127.0.0.1:2"], ["127.0.0.1:1", "127.0.0.1:2"], id="all on one machine"),
    ],
)
def test_client_connects_to_configured_and_usable_learned_addresses(
    configured: list[str], learned: list[str], expected: list[str]
) -> None:
    assert endpoints_with(configured, learned) == tuple(expected)
