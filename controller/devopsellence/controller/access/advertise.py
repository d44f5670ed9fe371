"""Announced address of a gateway: the one configured, else the one listened on, else this machine's."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from contextlib import suppress

from devopsellence.gateways import InvalidGateways, gateway_address

#: Port of the connection that is only prepared; no packet is sent, so it does not matter.
_ANY_PORT = 9


def announced_address(listen: str, advertise: str, endpoints: Sequence[str]) -> str:
    """Return the address to announce for a gateway that listens on ``listen``; "" if there is none. May block.

    For a wildcard, that is the address from which this machine reaches the first of etcd's ``endpoints`` that is not on
    this machine's loopback.
    """
    if advertise:
        return gateway_address(advertise)
    host, _, port = listen.rpartition(":")
    try:
        ip = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return ""  # a name: what it means elsewhere is not known here
    local = str(ip) if not ip.is_unspecified else _local_address(endpoints, any_family=ip.version == 6)
    with suppress(InvalidGateways):
        return gateway_address(f"[{local}]:{port}" if ":" in local else f"{local}:{port}")
    return ""


def _local_address(endpoints: Sequence[str], *, any_family: bool) -> str:
    """Return the address of this machine towards etcd; "" if it cannot be told."""
    for endpoint in endpoints:
        with suppress(OSError, ValueError):
            local = _address_towards(endpoint.rpartition(":")[0].strip("[]"))
            if not local.is_loopback and (any_family or local.version == 4):
                return str(local)
    return ""


def _address_towards(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    family, kind, _, _, address = socket.getaddrinfo(host, _ANY_PORT, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as prepared:
        prepared.connect(address)
        return ipaddress.ip_address(prepared.getsockname()[0])
