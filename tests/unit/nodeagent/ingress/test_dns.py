"""DNS resolution of peers' dns."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from devopsellence.nodeagent.envoy.model import RouterPeer
from devopsellence.nodeagent.ingress.dns import PeerResolver, with_peer_addresses
from devopsellence.nodeagent.ingress.routing import IngressInputs


class FakeDns:
    """DNS records by name; records the names looked up."""

    def __init__(self, **known: list[str]) -> None:
        self.known = known
        self.asked: list[str] = []

    def __call__(self, name: str) -> list[str]:
        self.asked.append(name)
        if name not in self.known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self.known[name]


def inputs(*addresses: str) -> IngressInputs:
    return IngressInputs(peers=tuple(RouterPeer(f"n-{address}", "x.internal", address, 7444) for address in addresses))


async def test_names_become_addresses_and_addresses_stay_unchanged() -> None:
    dns = FakeDns(db=["10.0.0.7", "fd00::7"])
    resolver = PeerResolver(lambda: None, dns)
    unresolved = inputs("db", "10.0.0.2", "fd00::3", "away")
    resolver.set_hosts(peer.address for peer in unresolved.peers)
    # No warning about names that have not been looked up yet.
    assert with_peer_addresses(unresolved, resolver) == inputs("10.0.0.2", "fd00::3")
    await resolver.resolve_once()
    assert sorted(dns.asked) == ["away", "db"]
    resolved = with_peer_addresses(unresolved, resolver)
    assert [(peer.node, peer.address) for peer in resolved.peers] == [
        ("n-db", "10.0.0.7"),
        ("n-10.0.0.2", "10.0.0.2"),
        ("n-fd00::3", "fd00::3"),
    ]
    (warning,) = resolved.warnings
    assert warning.startswith(
        "requests cannot be forwarded to n-away: its address away does not resolve to an IP address on this "
        "node (Name or "
    )


async def test_address_stays_while_still_valid_or_lookup_fails() -> None:
    dns = FakeDns(db=["10.0.0.7", "10.0.0.8"])
    changes: list[str] = []
    resolver = PeerResolver(lambda: changes.append(resolver.address("db")), dns)
    resolver.set_hosts(["db"])
    for answer in (["10.0.0.7", "10.0.0.8"], ["10.0.0.8", "10.0.0.7"], None, ["10.0.0.9"]):
        dns.known = {"db": answer} if answer else {}
        await resolver.resolve_once()
        assert not resolver.problem("db")
    assert changes == ["10.0.0.7", "10.0.0.9"]
    resolver.set_hosts([])
    assert resolver.address("db") == ""


@asynccontextmanager
async def running(resolver: PeerResolver) -> AsyncIterator[None]:
    task = asyncio.create_task(resolver.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_new_name_is_looked_up_at_once() -> None:
    changed = asyncio.Event()
    resolver = PeerResolver(changed.set, FakeDns(db=["10.0.0.7"]))
    async with running(resolver), asyncio.timeout(30):
        resolver.set_hosts(["db"])
        await changed.wait()
        assert resolver.address("db") == "10.0.0.7"
        changed.clear()
        resolver.set_hosts(["db", "x" * 64 + ".example"])
        await changed.wait()
        assert resolver.problem("x" * 64 + ".example")
        assert resolver.address("db") == "10.0.0.7"


async def test_default_lookup_asks_the_machine() -> None:
    resolver = PeerResolver(lambda: None)
    resolver.set_hosts(["localhost", "x" * 64 + ".example"])
    await resolver.resolve_once()
    assert resolver.address("localhost") in {"127.0.0.1", "::1"}
    assert resolver.problem("x" * 64 + ".example")
