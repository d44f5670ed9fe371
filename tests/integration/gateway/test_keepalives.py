"""Keepalives of many callers on shared streams: each lease lives and ends with its own owner."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.gateway.keepalives import STREAMS
from devopsellence.store.codec import encode
from devopsellence.store.errors import StoreError, Unavailable
from devopsellence.store.etcd import Etcd
from devopsellence.store.lease import Lease, LeaseKeeper
from devopsellence.store.settings import Settings
from tests.support.authority import Authority
from tests.support.etcd import EtcdServer
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.need import need_etcd
from tests.support.until import eventually

pytestmark = pytest.mark.etcd
#: More than there are streams, so that some leases share one.
NODES = [f"n{number}" for number in range(2 * STREAMS)]
TTL = 3


@pytest.fixture
async def owners(gateway: RunningGateway) -> AsyncIterator[dict[str, Owner]]:
    """Nodes with a heartbeat on a lease, all kept alive through the gateway."""
    await gateway.register(*NODES)
    async with AsyncExitStack() as stack:
        yield {name: await Owner.start(name, gateway.node(name), stack) for name in NODES}


class Owner:
    """A node whose heartbeat is bound to a lease."""

    def __init__(self, etcd: Etcd, keeper: LeaseKeeper, lease: Lease) -> None:
        self.etcd = etcd
        self.keeper = keeper
        self.lease = lease

    @classmethod
    async def start(cls, name: str, settings: Settings, stack: AsyncExitStack, *, ttl: int = TTL) -> Owner:
        etcd = await stack.enter_async_context(Etcd(settings))
        keeper = await stack.enter_async_context(LeaseKeeper(etcd))
        lease = await keeper.grant(ttl)
        beat = pb.Heartbeat(node=name, uid=f"uid-{name}")
        await etcd.put(etcd.keys.heartbeat(name), encode(beat), lease=lease.id)
        return cls(etcd, keeper, lease)

    async def die(self) -> None:
        """End the connection as a process that is killed does: without a farewell."""
        await self.etcd.__aexit__(None, None, None)


async def beating(direct: Etcd) -> set[str]:
    listing = await direct.list(direct.keys.heartbeats_prefix, keys_only=True)
    return {item.key.removeprefix(direct.keys.heartbeats_prefix) for item in listing.items}


async def test_leases_end_with_their_owners_alone(gateway: RunningGateway, owners: dict[str, Owner]) -> None:
    dying, living = NODES[::3], {name for at, name in enumerate(NODES) if at % 3}
    await asyncio.gather(*(owners[name].die() for name in dying))
    await eventually("the leases of the dead have ended", lambda: beating(gateway.direct), living.__eq__)
    # Several times the TTL of what is left.
    await asyncio.sleep(2 * TTL)
    assert await beating(gateway.direct) == living
    assert not any(owners[name].lease.lost.is_set() for name in living)


async def test_owners_that_leave_in_the_middle_of_a_keepalive_disturb_no_other(
    gateway: RunningGateway, owners: dict[str, Owner]
) -> None:
    for _ in range(20):
        for name in NODES[::2]:
            stream = await owners[name].etcd.keepalive()
            await stream.send(owners[name].lease.id)
            stream.close()
        await asyncio.sleep(0.05)
    await asyncio.sleep(TTL)
    assert await beating(gateway.direct) == set(NODES)
    assert not any(owner.lease.lost.is_set() for owner in owners.values())


async def test_many_leases_of_one_stream_are_kept_alive(gateway: RunningGateway) -> None:
    """A stream's keepalives are answered one after the other: none may wait for those of other callers."""
    async with Etcd(gateway.controller()) as etcd, LeaseKeeper(etcd) as keeper:
        leases = [await keeper.grant(TTL) for _ in range(50)]
        await asyncio.sleep(3 * TTL)
        assert not any(lease.lost.is_set() for lease in leases)


async def test_lease_of_another_node_is_refused_and_ends_only_that_stream(
    gateway: RunningGateway, owners: dict[str, Owner]
) -> None:
    stranger, owner = owners["n0"], owners["n1"]
    stream = await stranger.etcd.keepalive()
    await stream.send(owner.lease.id)
    with pytest.raises(StoreError, match="was not granted to node:uid-n0"):
        await stream.receive()
    await asyncio.sleep(TTL)
    assert await beating(gateway.direct) == set(NODES)


async def test_lease_that_is_gone_is_reported(owners: dict[str, Owner]) -> None:
    etcd = owners["n0"].etcd
    lease = await etcd.grant_lease(TTL)
    await etcd.revoke_lease(lease)
    stream = await etcd.keepalive()
    await stream.send(lease)
    assert await stream.receive() == (lease, 0)


@pytest.fixture
def server(tmp_path: Path) -> EtcdServer:
    need_etcd()
    return EtcdServer(tmp_path / "etcd")


async def test_owner_keeps_its_lease_when_its_gateway_dies(server: EtcdServer, tmp_path: Path) -> None:
    """With both gateways' addresses. Without another gateway, the lease ends: nothing renews it but its owner."""
    authority = Authority(tmp_path / "ca")
    async with AsyncExitStack() as stack:
        stack.enter_context(server)
        async with running_gateway(server.settings(), authority) as last, AsyncExitStack() as clients:
            direct = await clients.enter_async_context(Etcd(server.settings()))
            async with running_gateway(server.settings(), authority) as first:
                await first.register("n1", "n2")
                await last.register("n1", "n2")
                both = replace(first.node("n1"), endpoints=(first.address, last.address))
                kept = await Owner.start("n1", both, clients, ttl=10)
                alone = await Owner.start("n2", first.node("n2"), clients)
            await eventually("the lease without a gateway has ended", lambda: beating(direct), {"n1"}.__eq__)
            assert alone.lease.lost.is_set()
            await asyncio.sleep(10)
            assert await beating(direct) == {"n1"}
            assert not kept.lease.lost.is_set()


async def test_silent_etcd_is_reported_and_later_keepalives_are_answered(server: EtcdServer, tmp_path: Path) -> None:
    with server:
        async with running_gateway(server.settings(), Authority(tmp_path / "ca")) as gateway:
            await gateway.register("n1")
            async with Etcd(gateway.node("n1")) as etcd:
                lease = await etcd.grant_lease(600)
                stream = await etcd.keepalive()
                await stream.send(lease)
                assert await stream.receive() == (lease, 600)
                server.pause()
                try:
                    await stream.send(lease)
                    with pytest.raises(Unavailable):
                        await stream.receive()
                finally:
                    server.resume()

                async def renewed() -> bool:
                    try:
                        again = await etcd.keepalive()
                        await again.send(lease)
                        return await again.receive() == (lease, 600)
                    except Unavailable:
                        return False

                await eventually("the gateway keeps leases alive again", renewed)
