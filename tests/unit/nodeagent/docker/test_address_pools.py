"""Networks left in the engine's address pools."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from devopsellence.nodeagent.docker.address_pools import networks_left

#: Of a machine with Docker: default route, its own subnet, the bridge docker0.
ROUTES = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
"""
SMALL = [{"Base": "10.77.0.0/24", "Size": 26}]


def network(*subnets: str) -> dict[str, object]:
    return {"IPAM": {"Config": [{"Subnet": subnet} for subnet in subnets]}}


@pytest.mark.parametrize(
    ("pools", "networks", "routes", "left"),
    [
        pytest.param(None, [], "", 31, id="built-in pools, nothing in use"),
        pytest.param(None, [network("172.17.0.0/16")], ROUTES, 30, id="the bridge counts once"),
        pytest.param([], [network("172.17.0.0/16"), network("192.168.16.0/20")], ROUTES, 29, id="one of each size"),
        pytest.param(None, [network("172.16.0.0/12")], "", 16, id="a network over many subnets"),
        pytest.param(SMALL, [], ROUTES, 4, id="small pool"),
        pytest.param(SMALL, [network("10.77.0.0/26"), network("10.77.0.64/26")], "", 2, id="half in use"),
        pytest.param(SMALL, [network("10.77.0.10/32"), network("10.77.0.20/30")], "", 3, id="parts of one subnet"),
        pytest.param(SMALL, [network("10.0.0.0/8")], "", 0, id="covered by a route of a VPN"),
        pytest.param(SMALL, [network("192.0.2.0/24"), network("fd00::/64"), network(), {}], "", 4, id="others"),
        pytest.param([{"Base": "10.0.0.0/8", "Size": 24}], [network("10.1.0.0/16")], "", 65536 - 256, id="large pool"),
        pytest.param([*SMALL, {"Base": "fd00::/48", "Size": 64}], [], "", 4, id="IPv6 pools do not count"),
    ],
)
def test_free_subnets_are_counted(
    pools: Sequence[dict[str, object]] | None, networks: list[dict[str, object]], routes: str, left: int
) -> None:
    assert networks_left({"DefaultAddressPools": pools}, networks, routes) == left


def test_order_of_networks_does_not_matter() -> None:
    used = [network(f"10.77.0.{start}/{size}") for start, size in [(0, 25), (64, 26), (128, 32), (130, 31)]]
    info = {"DefaultAddressPools": SMALL}
    assert networks_left(info, used, "") == networks_left(info, reversed(used), "") == 1
