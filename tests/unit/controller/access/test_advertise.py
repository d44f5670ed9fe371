"""Announced address of a gateway."""

from __future__ import annotations

import ipaddress

import pytest

from devopsellence.controller.access.advertise import announced_address


@pytest.mark.parametrize(
    ("listen", "advertise", "expected"),
    [
        ("10.0.0.1:2381", "", "10.0.0.1:2381"),
        ("[fd00::1]:2381", "", "[fd00::1]:2381"),
        ("127.0.0.1:2381", "", "127.0.0.1:2381"),
        ("0.0.0.0:2381", "192.0.2.1:443", "192.0.2.1:443"),
        pytest.param("gateway.example:2381", "", "", id="a name"),
        pytest.param("0.0.0.0:2381", "", "", id="etcd on this machine's loopback tells nothing"),
    ],
)
def test_announced_address(listen: str, advertise: str, expected: str) -> None:
    assert announced_address(listen, advertise, ["127.0.0.1:2379", "[::1]:2379"]) == expected


def test_wildcard_becomes_the_address_towards_etcd(monkeypatch: pytest.MonkeyPatch) -> None:
    towards = {"127.0.0.1": "127.0.0.1", "fd00::9": "fd00::1", "10.0.0.9": "10.0.0.1"}
    monkeypatch.setattr(
        "devopsellence.controller.access.advertise._address_towards",
        lambda host: ipaddress.ip_address(towards[host]),
    )
    endpoints = ["127.0.0.1:2379", "[fd00::9]:2379", "10.0.0.9:2379"]
    assert announced_address("0.0.0.0:2381", "", endpoints) == "10.0.0.1:2381"
    assert announced_address("[::]:2381", "", endpoints) == "[fd00::1]:2381"
