"""Other nodes' routers that are known by a name."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from devopsellence.nodeagent.envoy.model import RouterPeer
from devopsellence.nodeagent.ingress.dns import Names, resolved
from devopsellence.nodeagent.ingress.site import Given


class Addresses:
    """What names lead to; a name that is not there has none."""

    def __init__(self, **known: list[str]) -> None:
        self.known = known
        self.asked: list[str] = []

    def __call__(self, name: str) -> list[str]:
        self.asked.append(name)
        if name not in self.known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self.known[name]


def given(*addresses: str) -> Given:
    return Given(peers=tuple(RouterPeer(f"n-{address}", "x.internal", address, 7444) for address in addresses))


async def test_names_become_addresses_and_addresses_stay() -> None:
    addresses = Addresses(db=["10.0.0.7", "fd00::7"])
    names = Names(lambda: None, addresses)
    found = given("db", "10.0.0.2", "fd00::3", "away")
    names.want(peer.address for peer in found.peers)
    # Nothing is told of a name that nobody has looked up yet.
    assert resolved(found, names) == given("10.0.0.2", "fd00::3")
    await names.first()
    assert sorted(addresses.asked) == ["away", "db"]
    seen = resolved(found, names)
    assert [(peer.node, peer.address) for peer in seen.peers] == [
        ("n-db", "10.0.0.7"),
        ("n-10.0.0.2", "10.0.0.2"),
        ("n-fd00::3", "fd00::3"),
    ]
    (remark,) = seen.remarks
    assert remark.startswith("no request can be handed to n-away: its address away has no IP address here (Name or ")


async def test_the_last_answer_counts_as_long_as_it_is_one_of_them_or_there_is_none() -> None:
    addresses = Addresses(db=["10.0.0.7", "10.0.0.8"])
    changes: list[str] = []
    names = Names(lambda: changes.append(names.address("db")), addresses)
    names.want(["db"])
    for answer in (["10.0.0.7", "10.0.0.8"], ["10.0.0.8", "10.0.0.7"], None, ["10.0.0.9"]):
        addresses.known = {"db": answer} if answer else {}
        await names.first()
        assert not names.problem("db")
    assert changes == ["10.0.0.7", "10.0.0.9"]
    names.want([])
    assert names.address("db") == ""


@asynccontextmanager
async def running(names: Names) -> AsyncIterator[None]:
    task = asyncio.create_task(names.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_new_name_is_looked_up_at_once() -> None:
    changed = asyncio.Event()
    names = Names(changed.set, Addresses(db=["10.0.0.7"]))
    async with running(names), asyncio.timeout(30):
        names.want(["db"])
        await changed.wait()
        assert names.address("db") == "10.0.0.7"
        changed.clear()
        names.want(["db", "x" * 64 + ".example"])
        await changed.wait()
        assert names.problem("x" * 64 + ".example")
        assert names.address("db") == "10.0.0.7"


async def test_the_machine_itself_is_asked() -> None:
    names = Names(lambda: None)
    names.want(["localhost", "x" * 64 + ".example"])
    await names.first()
    assert names.address("localhost") in {"127.0.0.1", "::1"}
    assert names.problem("x" * 64 + ".example")
