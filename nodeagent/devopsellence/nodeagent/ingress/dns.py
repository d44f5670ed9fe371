"""DNS resolution of peers' addresses: Envoy accepts only IP addresses as endpoints.

A name is resolved when it is new, and once a minute. After a failure the last address stays in use.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from typing import Final

from devopsellence.nodeagent.ingress.routing import IngressInputs
from devopsellence.nodeagent.util.threads import ThreadPool

REFRESH_SECONDS: Final = 60.0
#: Longest wait for names at the start of the agent: routing starts without peers whose address is still unknown.
START_SECONDS: Final = 2.0
_PARALLEL: Final = 4


def look_up(name: str) -> list[str]:
    """Return the IP addresses of ``name``, the best first (RFC 6724).

    Blocks. Raises OSError or ValueError if there are none.
    """
    results = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    # Link-local addresses need an interface, which Envoy cannot be told.
    return [address for *_, (address, *_) in results if isinstance(address, str) and "%" not in address]


class PeerResolver:
    """Cache of peers' IP addresses. Lives on the event loop.

    ``changed`` is called on the loop when :meth:`address` or :meth:`problem` changes; ``look_up`` runs on a thread.
    """

    def __init__(self, changed: Callable[[], None], look_up: Callable[[str], list[str]] = look_up) -> None:
        self._changed = changed
        self._look_up = look_up
        self._names: frozenset[str] = frozenset()
        self._known: dict[str, str] = {}
        self._problems: dict[str, str] = {}
        self._pool = ThreadPool(_PARALLEL, "names")
        self._wake = asyncio.Event()

    def set_hosts(self, hosts: Iterable[str]) -> None:
        """Set the names and IP addresses to resolve from now on."""
        names = frozenset(host for host in hosts if not _is_ip(host))
        if names - self._names:
            self._wake.set()
        self._names = names
        self._known = {name: address for name, address in self._known.items() if name in names}
        self._problems = {name: problem for name, problem in self._problems.items() if name in names}

    def address(self, host: str) -> str:
        """Return the IP address of a host name or IP address; "" while unknown."""
        return host if _is_ip(host) else self._known.get(host, "")

    def problem(self, host: str) -> str:
        """Return why no address is known; "" before the first attempt as well."""
        return self._problems.get(host, "")

    async def resolve_once(self) -> None:
        """Resolve all names, for at most :data:`START_SECONDS`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(START_SECONDS):
                await self._resolve_all()
                self._wake.clear()

    async def run(self) -> None:
        """Resolve names until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(REFRESH_SECONDS if self._names else None):
                    await self._wake.wait()
            self._wake.clear()
            await self._resolve_all()

    async def _resolve_all(self) -> None:
        before = self._known, self._problems
        self._known, self._problems = dict(self._known), dict(self._problems)
        await asyncio.gather(*map(self._resolve, sorted(self._names)))
        if (self._known, self._problems) != before:
            self._changed()

    async def _resolve(self, name: str) -> None:
        try:
            addresses = await self._pool.run(partial(self._look_up, name))
            problem = "" if addresses else "it has no address that can be reached from other nodes"
        except (OSError, ValueError) as error:
            # ValueError: not a valid name.
            addresses, problem = [], error.strerror or str(error) if isinstance(error, OSError) else str(error)
        if name not in self._names:
            return
        if addresses:
            # The order of several addresses changes from answer to answer: any of them will do.
            if self._known.get(name) not in addresses:
                self._known[name] = addresses[0]
            self._problems.pop(name, None)
        elif name not in self._known:
            self._problems[name] = problem


def with_peer_addresses(inputs: IngressInputs, resolver: PeerResolver) -> IngressInputs:
    """Return ``inputs`` with peers' IP addresses. Peers without an address are left out, with a warning."""
    peers = tuple(
        replace(peer, address=address) for peer in inputs.peers if (address := resolver.address(peer.address))
    )
    warnings = tuple(
        f"requests cannot be forwarded to {peer.node}: its address {peer.address} does not resolve to an IP address on "
        f"this node ({problem}); make it resolvable here, by DNS or /etc/hosts, or register the node with an IP address"
        for peer in inputs.peers
        if (problem := resolver.problem(peer.address))
    )
    return replace(inputs, peers=peers, warnings=(*inputs.warnings, *warnings))


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
