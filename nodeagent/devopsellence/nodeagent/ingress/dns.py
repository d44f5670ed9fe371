"""The IP addresses of other nodes' routers that are known by a name: Envoy takes nothing else for endpoints.

A name is looked up when it is new and once a minute; when that fails, the last answer counts on.
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

from devopsellence.nodeagent.ingress.site import Given
from devopsellence.nodeagent.util.threads import Pool

EVERY_SECONDS: Final = 60.0
#: A start waits no longer than this for names: what is routed on then lacks the nodes that have no address yet.
FIRST_SECONDS: Final = 2.0
_AT_ONCE: Final = 4


def look_up(name: str) -> list[str]:
    """The IP addresses of ``name``, the best first (RFC 6724). Blocks; OSError or ValueError if it has none."""
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    # Those of a link mean nothing without its interface, which Envoy cannot be told.
    return [address for *_, (address, *_) in found if isinstance(address, str) and "%" not in address]


class Names:
    """Lives on the event loop. ``changed`` is called there when :meth:`address` or :meth:`problem` has another answer;
    ``look_up`` is called on a thread."""

    def __init__(self, changed: Callable[[], None], look_up: Callable[[str], list[str]] = look_up) -> None:
        self._changed = changed
        self._look_up = look_up
        self._wanted: frozenset[str] = frozenset()
        self._known: dict[str, str] = {}
        self._problems: dict[str, str] = {}
        self._pool = Pool(_AT_ONCE, "names")
        self._wake = asyncio.Event()

    def want(self, hosts: Iterable[str]) -> None:
        """The names and IP addresses that are asked for from now on."""
        wanted = frozenset(host for host in hosts if not _is_ip(host))
        if wanted - self._wanted:
            self._wake.set()
        self._wanted = wanted
        self._known = {name: address for name, address in self._known.items() if name in wanted}
        self._problems = {name: problem for name, problem in self._problems.items() if name in wanted}

    def address(self, host: str) -> str:
        """The IP address of a name, or itself if it is one; "" while none is known."""
        return host if _is_ip(host) else self._known.get(host, "")

    def problem(self, host: str) -> str:
        """Why none is known; "" also as long as it has not been looked up."""
        return self._problems.get(host, "")

    async def first(self) -> None:
        """Returns when every name has been looked up, or after a moment."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_SECONDS):
                await self._look()
                self._wake.clear()

    async def run(self) -> None:
        """Look names up until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(EVERY_SECONDS if self._wanted else None):
                    await self._wake.wait()
            self._wake.clear()
            await self._look()

    async def _look(self) -> None:
        before = self._known, self._problems
        self._known, self._problems = dict(self._known), dict(self._problems)
        await asyncio.gather(*map(self._find, sorted(self._wanted)))
        if (self._known, self._problems) != before:
            self._changed()

    async def _find(self, name: str) -> None:
        try:
            found = await self._pool.run(partial(self._look_up, name))
            problem = "" if found else "it has no address that can be reached from elsewhere"
        except (OSError, ValueError) as error:
            # ValueError: no name that could be asked for.
            found, problem = [], error.strerror or str(error) if isinstance(error, OSError) else str(error)
        if name not in self._wanted:
            return
        if found:
            # The order of several is another each time, and every one will do.
            if self._known.get(name) not in found:
                self._known[name] = found[0]
            self._problems.pop(name, None)
        elif name not in self._known:
            self._problems[name] = problem


def resolved(found: Given, names: Names) -> Given:
    """With IP addresses for other nodes' routers; one without is left out, and told of."""
    peers = tuple(replace(peer, address=address) for peer in found.peers if (address := names.address(peer.address)))
    lost = tuple(
        f"no request can be handed to {peer.node}: its address {peer.address} has no IP address here ({problem}); "
        "make it known to this machine, by DNS or /etc/hosts, which a node registered with an IP address does not need"
        for peer in found.peers
        if (problem := names.problem(peer.address))
    )
    return replace(found, peers=peers, remarks=(*found.remarks, *lost))


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
