"""Where DNS leads: the only importer of dnspython, which is imported when somebody asks."""

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

#: Whom to ask instead of the system's resolvers, as an address with or without a port.
VARIABLE: Final = "DEVOPSELLENCE_DNS"
_PORT: Final = 53


class LookupStatus(Enum):
    """What came of asking for a name."""

    FOUND = "found"
    # There is no such name, or it has no address.
    ABSENT = "absent"
    # Nobody answered, or nobody who knows.
    SILENT = "silent"


@dataclass(frozen=True)
class DnsAnswer:
    """``addresses`` are IP addresses, sorted; ``alias`` is the name that the name stands for, "" if it is its own."""

    kind: LookupStatus
    addresses: tuple[str, ...] = ()
    alias: str = ""
    detail: str = ""


class CachingResolver:
    """Resolves names, each only once. ``server`` is whom to ask, as ``10.0.0.1:53``; "" for the system's resolvers.

    Raises:
        CliError: ``invalid_address`` (exit code 2): ``server`` is no IP address with or without a port.
    """

    def __init__(self, server: str, *, seconds: float) -> None:
        self._server = _server(server) if server else None
        self._seconds = seconds
        self._resolver: Resolver | None = None
        self._known: dict[str, DnsAnswer] = {}

    async def find(self, name: str) -> DnsAnswer:
        """Where ``name``, a host's name or an IP address, leads."""
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
            return DnsAnswer(LookupStatus.ABSENT, detail="there is no such name")
        except dns.resolver.NoResolverConfiguration:
            return DnsAnswer(LookupStatus.SILENT, detail="this machine knows no resolver")
        except dns.exception.DNSException as error:
            return DnsAnswer(LookupStatus.SILENT, detail=_reason(error))
        addresses = sorted({address for found, _ in answers for address in found})
        if not addresses:
            return DnsAnswer(LookupStatus.ABSENT, detail="it has no address")
        return DnsAnswer(LookupStatus.FOUND, tuple(addresses), next((alias for _, alias in answers if alias), ""))

    async def _ask(self, name: str, kind: str) -> tuple[list[str], str]:
        """The addresses of one kind, and what the name is an alias of."""
        import dns.resolver

        resolver = self._resolver = self._resolver or self._made()
        try:
            # Absolute, so that no search domain of this machine comes into it.
            answer = await resolver.resolve(f"{name}.", kind, lifetime=self._seconds, search=False)
        except dns.resolver.NoAnswer:
            return [], ""
        alias = answer.canonical_name.to_text(omit_final_dot=True).lower()
        return [record.to_text() for record in answer], "" if alias == name else alias

    def _made(self) -> Resolver:
        from dns.asyncresolver import Resolver

        if self._server is None:
            return Resolver()
        resolver = Resolver(configure=False)
        resolver.nameservers = [self._server[0]]
        resolver.port = self._server[1]
        return resolver


def resolver_address(flag: str | None, environ: Mapping[str, str] = os.environ) -> str:
    """Whom to ask: what the flag says, else the variable; "" for the system's resolvers."""
    return flag or environ.get(VARIABLE, "")


async def addresses(names: CachingResolver, nodes: Mapping[str, str]) -> dict[str, frozenset[str]]:
    """The IP addresses of nodes, given by the address that they are registered with, which may be a name; none where
    that is empty or cannot be resolved."""
    return {
        node: frozenset((await names.find(each)).addresses) if each else frozenset() for node, each in nodes.items()
    }


def preferred_address(found: Iterable[str]) -> str:
    """The one of these addresses to try: IPv4 before IPv6, which fewer machines have; "" where there is none."""
    return min(found, key=lambda address: (":" in address, address), default="")


def address_realms(found: Iterable[str]) -> frozenset[bool]:
    """Whether there are private addresses (True) and public ones (False) among them."""
    return frozenset(ipaddress.ip_address(each).is_private for each in found)


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
    message = f"{text!r} is no resolver: an IP address is needed, with or without a port (10.0.0.2 or 10.0.0.2:5353)"
    raise CliError("invalid_address", message, exit_code=2)


def _reason(error: Exception) -> str:
    from dns.exception import Timeout

    return "no resolver answered in time" if isinstance(error, Timeout) else "no resolver could answer"
