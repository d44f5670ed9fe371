"""DNS lookups of hosts; the only importer of dnspython, imported at the first lookup."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from devopsellence.cli.ingress.hosts import is_address, is_loopback
from devopsellence.cli.output import CliError

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver

#: Environment variable with a DNS resolver to ask instead of that of the system, as an address with optional port.
VARIABLE: Final = "DEVOPSELLENCE_DNS"
_PORT: Final = 53


class LookupStatus(Enum):
    """Result of a lookup."""

    FOUND = "found"
    # No such name, or no address.
    ABSENT = "absent"
    # No resolver answered.
    SILENT = "silent"


@dataclass(frozen=True)
class DnsAnswer:
    """Answer of DNS: sorted IP addresses; ``alias`` is the canonical name, "" if equal to the name."""

    kind: LookupStatus
    addresses: tuple[str, ...] = ()
    alias: str = ""
    detail: str = ""


class CachingResolver:
    """DNS resolver with a cache; ``server`` is the resolver to ask, as ``10.0.0.1:53``, "" for that of the system.

    Raises:
        CliError: ``invalid_address`` (exit code 2): ``server`` is not an IP address with an optional port.
    """

    def __init__(self, server: str, *, seconds: float) -> None:
        self._server = _server(server) if server else None
        self._seconds = seconds
        self._resolver: Resolver | None = None
        self._known: dict[str, DnsAnswer] = {}

    async def find(self, name: str) -> DnsAnswer:
        """Return the addresses of ``name``, a DNS name or an IP address."""
        if name not in self._known:
            self._known[name] = await self._find(name)
        return self._known[name]

    async def _find(self, name: str) -> DnsAnswer:
        if is_address(name):
            return DnsAnswer(LookupStatus.FOUND, (str(ipaddress.ip_address(name)),))
        if is_loopback(name):
            return DnsAnswer(LookupStatus.FOUND, ("127.0.0.1",))
        import dns.exception
        import dns.resolver

        try:
            answers = [await self._ask(name, kind) for kind in ("A", "AAAA")]
        except dns.resolver.NXDOMAIN:
            return DnsAnswer(LookupStatus.ABSENT, detail="no such name")
        except dns.resolver.NoResolverConfiguration:
            return DnsAnswer(LookupStatus.SILENT, detail="this machine has no DNS resolver configured")
        except dns.exception.DNSException as error:
            return DnsAnswer(LookupStatus.SILENT, detail=_reason(error))
        addresses = sorted({address for records, _ in answers for address in records})
        if not addresses:
            return DnsAnswer(LookupStatus.ABSENT, detail="the name has no address")
        return DnsAnswer(LookupStatus.FOUND, tuple(addresses), next((alias for _, alias in answers if alias), ""))

    async def _ask(self, name: str, kind: str) -> tuple[list[str], str]:
        """Return the addresses of a record type (A or AAAA), and the canonical name, "" if equal to the name."""
        import dns.resolver

        resolver = self._resolver = self._resolver or self._create_resolver()
        try:
            # Absolute, so that no search domain of this machine applies.
            answer = await resolver.resolve(f"{name}.", kind, lifetime=self._seconds, search=False)
        except dns.resolver.NoAnswer:
            return [], ""
        alias = answer.canonical_name.to_text(omit_final_dot=True).lower()
        return [record.to_text() for record in answer], "" if alias == name else alias

    def _create_resolver(self) -> Resolver:
        from dns.asyncresolver import Resolver

        if self._server is None:
            return Resolver()
        resolver = Resolver(configure=False)
        resolver.nameservers = [self._server[0]]
        resolver.port = self._server[1]
        return resolver


def resolver_address(flag: str | None, environ: Mapping[str, str] = os.environ) -> str:
    """Return the resolver to ask: the flag, else the variable, else "" for that of the system."""
    return flag or environ.get(VARIABLE, "")


async def addresses(names: CachingResolver, nodes: Mapping[str, str]) -> dict[str, frozenset[str]]:
    """Return the IP addresses of nodes from their registered addresses, which may be DNS names; empty if unknown."""
    return {
        node: frozenset((await names.find(address)).addresses) if address else frozenset()
        for node, address in nodes.items()
    }


def preferred_address(addresses: Iterable[str]) -> str:
    """Return the address to connect to, IPv4 first because IPv6 is less common; "" without addresses."""
    return min(addresses, key=lambda address: (":" in address, address), default="")


def address_realms(addresses: Iterable[str]) -> frozenset[bool]:
    """Return True for private and False for public addresses, as a set."""
    return frozenset(ipaddress.ip_address(address).is_private for address in addresses)


def _server(text: str) -> tuple[str, int]:
    host, port = text, str(_PORT)
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":") or port
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    with suppress(ValueError):
        if 0 < int(port) < 1 << 16:
            return str(ipaddress.ip_address(host)), int(port)
    message = f"{text!r} is not a DNS resolver: give an IP address with an optional port (10.0.0.2 or 10.0.0.2:5353)"
    raise CliError("invalid_address", message, exit_code=2)


def _reason(error: Exception) -> str:
    from dns.exception import Timeout

    return "no DNS resolver answered in time" if isinstance(error, Timeout) else "no DNS resolver could answer"
