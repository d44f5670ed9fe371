"""Networks that the engine can still create: the free subnets of its address pools. Pure, except for reading routes.

The engine gives each network the next subnet of its pools that no other network has and that overlaps no route of the
machine (libnetwork, ``requestPoolHelper`` and ``netutils.CheckRouteOverlaps``).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_network
from pathlib import Path
from typing import Any, Final

#: Routing table of Linux, in the format of proc(5): a header, then a line per route with addresses in host order.
_ROUTES: Final = Path("/proc/net/route")
_DESTINATION, _MASK, _FIELDS = 1, 7, 8


@dataclass(frozen=True, slots=True)
class AddressPool:
    """A pool of the engine: ``base`` is divided into subnets of prefix length ``size``."""

    base: IPv4Network
    size: int

    @property
    def subnets(self) -> int:
        """Number of subnets."""
        return 1 << max(0, self.size - self.base.prefixlen)


#: Pools of an engine without ``default-address-pools`` (libnetwork, ``ipamutils.localScopeDefaultNetworks``).
BUILT_IN: Final = (
    *(AddressPool(IPv4Network(f"172.{number}.0.0/16"), 16) for number in (17, 18, 19)),
    *(AddressPool(IPv4Network(f"172.{number}.0.0/14"), 16) for number in (20, 24, 28)),
    AddressPool(IPv4Network("192.168.0.0/16"), 20),
)


def networks_left(info: Mapping[str, Any], networks: Iterable[Mapping[str, Any]], routes: str) -> int:
    """Return the number of networks that the engine can still create.

    ``info`` and ``networks`` are the engine's own documents; ``routes`` is the routing table of its machine.
    """
    used = [*_subnets_of(networks), *_routed(routes)]
    return sum(_free(pool, used) for pool in _pools(info))


def read_routes() -> str:
    """Return the routing table of this machine; empty where there is none to read."""
    try:
        return _ROUTES.read_text()
    except OSError:
        return ""


def _pools(info: Mapping[str, Any]) -> Sequence[AddressPool]:
    bases = [(ip_network(pool["Base"]), int(pool["Size"])) for pool in info.get("DefaultAddressPools") or ()]
    return [AddressPool(base, size) for base, size in bases if isinstance(base, IPv4Network)] or BUILT_IN


def _subnets_of(networks: Iterable[Mapping[str, Any]]) -> list[IPv4Network]:
    configs = [config for network in networks for config in (network.get("IPAM") or {}).get("Config") or ()]
    subnets = [ip_network(config["Subnet"], strict=False) for config in configs if config.get("Subnet")]
    return [subnet for subnet in subnets if isinstance(subnet, IPv4Network)]


def _routed(routes: str) -> list[IPv4Network]:
    """Return the destinations of a routing table, except the default route, which overlaps everything."""
    rows = [line.split() for line in routes.splitlines()[1:]]
    pairs = [(_address(row[_DESTINATION]), _address(row[_MASK])) for row in rows if len(row) >= _FIELDS]
    return [ip for address, mask in pairs if (ip := IPv4Network(f"{address}/{mask}", strict=False)).prefixlen]


def _address(host_order: str) -> str:
    return socket.inet_ntoa(struct.pack("=L", int(host_order, 16)))


def _free(pool: AddressPool, used: Iterable[IPv4Network]) -> int:
    """Return the number of subnets of a pool that overlap none of ``used``."""
    first, width = int(pool.base.network_address), 32 - pool.size
    taken: list[tuple[int, int]] = []
    for network in used:
        if network.overlaps(pool.base):
            start = max(int(network.network_address), first) - first
            end = min(int(network.broadcast_address), int(pool.base.broadcast_address)) - first
            taken.append((start >> width, end >> width))
    free, next_free = pool.subnets, 0
    for low, high in sorted(taken):
        free -= max(0, high + 1 - max(low, next_free))
        next_free = max(next_free, high + 1)
    return free
