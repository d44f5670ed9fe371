"""Leases against a real etcd: keepalive on one stream, and expiry in time without answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from devopsellence.store.etcd import Etcd, KeepaliveStream
from devopsellence.store.lease import Lease, LeaseKeeper
from devopsellence.store.settings import Settings
from tests.support.etcd import EtcdServer
from tests.support.need import need_etcd
from tests.support.relay import Relay

pytestmark = pytest.mark.etcd


async def lost(lease: Lease, seconds: float) -> float:
    """Wait until ``lease`` is lost; return the seconds."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    async with asyncio.timeout(seconds):
        await lease.lost.wait()
    return loop.time() - started


async def bound(etcd: Etcd, leases: Sequence[Lease]) -> list[str]:
    for number, lease in enumerate(leases):
        await etcd.put(etcd.keys.heartbeat(f"n{number}"), b"x", lease=lease.id)
    return [etcd.keys.heartbeat(f"n{number}") for number in range(len(leases))]


async def test_many_leases_are_kept_alive_on_one_stream(etcd: Etcd, monkeypatch: pytest.MonkeyPatch) -> None:
    streams: list[KeepaliveStream] = []
    opened = etcd.keepalive

    async def keepalive() -> KeepaliveStream:
        streams.append(await opened())
        return streams[-1]

    monkeypatch.setattr(etcd, "keepalive", keepalive)
    async with LeaseKeeper(etcd) as keeper:
        leases = [await keeper.grant(1) for _ in range(20)]
        keys = await bound(etcd, leases)
        await asyncio.sleep(2.5)
        assert [item.key for item in (await etcd.list(etcd.keys.heartbeats_prefix)).items] == sorted(keys)
        assert not any(lease.lost.is_set() for lease in leases)
        assert len(streams) == 1
    # Leaving revokes.
    assert (await etcd.list(etcd.keys.heartbeats_prefix)).items == ()
    assert all(lease.lost.is_set() for lease in leases)


async def test_revoke_deletes_only_keys_of_the_lease(etcd: Etcd) -> None:
    async with LeaseKeeper(etcd) as keeper:
        leases = [await keeper.grant(1), await keeper.grant(1)]
        keys = await bound(etcd, leases)
        await leases[0].revoke()
        await leases[0].revoke()
        assert leases[0].lost.is_set()
        assert [item.key for item in (await etcd.list(etcd.keys.heartbeats_prefix)).items] == keys[1:]
        await asyncio.sleep(1.5)
        assert not leases[1].lost.is_set()


async def test_externally_revoked_lease_is_lost_at_next_keepalive(etcd: Etcd) -> None:
    async with LeaseKeeper(etcd) as keeper:
        lease = await keeper.grant(3)
        await etcd.revoke_lease(lease.id)
        assert await lost(lease, 2) < 1.5


async def test_unanswered_lease_is_lost_before_etcd_expires_it(etcd_server: EtcdServer, settings: Settings) -> None:
    async with (
        Etcd(settings) as direct,
        Relay(etcd_server.port) as relay,
        Etcd(Settings((relay.endpoint,), prefix=settings.prefix), timeout=1) as etcd,
        LeaseKeeper(etcd) as keeper,
    ):
        lease = await keeper.grant(2)
        (key,) = await bound(etcd, [lease])
        await asyncio.sleep(1)
        # Its requests still arrive, so etcd keeps the lease; but it cannot know.
        relay.hold_answers()
        assert await lost(lease, 4) <= 2.1
        assert await direct.get(key)


async def test_broken_stream_is_reopened_within_the_ttl(etcd_server: EtcdServer, settings: Settings) -> None:
    async with (
        Relay(etcd_server.port) as relay,
        Etcd(Settings((relay.endpoint,), prefix=settings.prefix), timeout=1) as etcd,
        LeaseKeeper(etcd) as keeper,
    ):
        lease = await keeper.grant(2)
        for _ in range(4):
            await asyncio.sleep(0.7)
            relay.cut()
        await asyncio.sleep(0.7)
        assert not lease.lost.is_set()


async def test_silent_member_is_replaced_within_the_ttl(tmp_path: Path) -> None:
    need_etcd()
    members = EtcdServer.cluster(tmp_path, 3)
    try:
        for member in members:
            member.spawn()
        for member in members:
            await asyncio.to_thread(member.wait_ready)
        endpoints = tuple(member.endpoint for member in members)
        async with Etcd(Settings(endpoints), timeout=2) as etcd, LeaseKeeper(etcd) as keeper:
            lease = await keeper.grant(4)
            # Goes round, so that there is a connection to each.
            for _ in range(10):
                await etcd.get("/a")
            for member in members:
                member.pause()
                await asyncio.sleep(2)
                member.resume()
                await asyncio.sleep(0.5)
            assert not lease.lost.is_set()
    finally:
        for member in members:
            member.kill()


async def test_late_answer_does_not_revive_lease(etcd: Etcd) -> None:
    """As after SIGSTOP and SIGCONT: the answer waits in the socket, and the time is long over."""
    async with LeaseKeeper(etcd) as keeper:
        lease = await keeper.grant(2)
        lease._unanswered.append(asyncio.get_running_loop().time() - 3)
        lease._deadline -= 3
        lease._answered(2)
        assert lease.lost.is_set()
