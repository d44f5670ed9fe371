"""Addresses of gateways: the rule for one address, the check of a record, and the endpoints of a client. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Final

from devopsellence.api.v1.stored_pb2 import Gateways

#: Most addresses in a record; a client opens a connection to each.
MOST_GATEWAYS: Final = 64
_LONGEST_TEXT: Final = 100
_IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class InvalidGateways(ValueError):
    """An address, or a record of addresses, that no client can use; the message says why."""


def gateway_address(text: str) -> str:
    """Return an address of a gateway in its one form: ``10.0.0.1:2381`` or ``[fd00::1]:2381``.

    Raises:
        InvalidGateways: it is not an IP address with a port, or one that nobody can connect to.
    """
    ip, port = _parsed(text)
    return f"[{ip}]:{port}" if ip.version == 6 else f"{ip}:{port}"


def gateway_addresses(record: Gateways) -> tuple[str, ...]:
    """Return the addresses of a record, each in its one form and once.

    Raises:
        InvalidGateways: there are too many, or one of them is malformed.
    """
    if len(record.addresses) > MOST_GATEWAYS:
        raise InvalidGateways(f"{len(record.addresses)} addresses of gateways, and {MOST_GATEWAYS} are the most")
    return tuple(dict.fromkeys(map(gateway_address, record.addresses)))


def endpoints_with(configured: Sequence[str], learned: Iterable[str]) -> tuple[str, ...]:
    """Return the configured endpoints, then the learned addresses that a client can use beside them.

    Those are addresses of the same kind (IPv4, IPv6): the client balances over one kind only, and a name stands alone.
    A loopback address means another machine's own, unless the client is configured with one, too.
    """
    try:
        known = [_parsed(endpoint) for endpoint in configured]
    except InvalidGateways:
        return tuple(configured)
    version = known[0][0].version
    is_local = any(ip.is_loopback for ip, _ in known)
    found = dict(zip(known, configured, strict=True))
    for address in learned:
        ip, port = _parsed(address)
        if ip.version == version and (is_local or not ip.is_loopback):
            found.setdefault((ip, port), address)
    return tuple(found.values())


def _parsed(text: str) -> tuple[_IpAddress, int]:
    host, separator, port = text.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    try:
        ip = ipaddress.ip_address(host[1:-1] if is_bracketed else host)
    except ValueError:
        raise _not_an_address(text) from None
    is_port = len(port) <= 5 and port.isascii() and port.isdigit() and 0 < int(port) < 65536
    if not (separator and is_port and is_bracketed == (ip.version == 6)) or "%" in host:
        raise _not_an_address(text)
    if ip.is_unspecified or ip.is_multicast:
        raise InvalidGateways(f"{text} is an address that nobody can connect to")
    return ip, int(port)


def _not_an_address(text: str) -> InvalidGateways:
    return InvalidGateways(f"{text[:_LONGEST_TEXT]!r} is not an IP address and a port, as 10.0.0.1:2381")
