"""Watch streams against a real etcd."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from devopsellence.etcd.v3 import etcd_pb2 as rpc
from devopsellence.store.errors import (
    Compacted,
    PermissionDenied,
    StoreError,
    Unauthenticated,
    Unavailable,
    WatchLost,
)
from devopsellence.store.etcd import Delete, Etcd, Put, WatchBatch
from devopsellence.store.settings import Settings
from tests.support.etcd import EtcdServer
from tests.support.need import need_etcd
from tests.support.relay import Relay
from tests.support.watch_server import watch_server

pytestmark = pytest.mark.etcd


def told(batch: WatchBatch) -> list[tuple[str, bytes | None]]:
    return [(event.key.rpartition("/")[2], event.kv.value if event.kv else None) for event in batch.events]


async def test_watch_starts_before_first_change_and_distinguishes_deletes(etcd: Etcd) -> None:
    start = await etcd.put(etcd.keys.node("before"), b"0")
    async with asyncio.timeout(5), aclosing(etcd.watch(etcd.keys.nodes_prefix, start_revision=start + 1)) as batches:
        first = await anext(batches)
        assert (first.events, first.progress) == ((), False)
        await etcd.put(etcd.keys.heartbeat("n1"), b"not watched")
        revision = await etcd.put(etcd.keys.node("n1"), b"1")
        batch = await anext(batches)
        assert told(batch) == [("n1", b"1")]
        assert batch.events[0].mod_revision == revision
        gone = await etcd.delete(etcd.keys.node("n1"))
        batch = await anext(batches)
        assert told(batch) == [("n1", None)]
        assert batch.events[0].mod_revision == gone


async def test_history_is_first_and_transactions_are_complete(etcd: Etcd) -> None:
    start = await etcd.put(etcd.keys.node("n1"), b"1")
    await etcd.txn([], [Delete(etcd.keys.node("n1")), Put(etcd.keys.node("n2"), b"2")])
    async with asyncio.timeout(5), aclosing(etcd.watch(etcd.keys.nodes_prefix, start_revision=start)) as batches:
        await anext(batches)
        batch = await anext(batches)
        assert told(batch) == [("n1", b"1"), ("n1", None), ("n2", b"2")]


async def test_fragments_are_joined(tmp_path: Path) -> None:
    need_etcd()
    # etcd cuts an answer to a watch where it passes --max-request-bytes.
    with EtcdServer(tmp_path, arguments=("--max-request-bytes=100000",)) as server:
        async with Etcd(server.settings()) as etcd:
            for number in range(5):
                await etcd.txn([], [Put(f"/k/{number}{letter}", b"x" * 30_000) for letter in "abc"])
            async with asyncio.timeout(5), aclosing(etcd.watch("/k/", start_revision=2)) as batches:
                await anext(batches)
                batch = await anext(batches)
                assert [key for key, _ in told(batch)] == [
                    f"{number}{letter}" for number in range(5) for letter in "abc"
                ]


async def test_compacted_start_reports_oldest_revision(etcd_server: EtcdServer, etcd: Etcd) -> None:
    start = await etcd.put(etcd.keys.node("n1"), b"1")
    last = await etcd.put(etcd.keys.node("n1"), b"2")
    await asyncio.to_thread(etcd_server.etcdctl, "compact", str(last))
    async with aclosing(etcd.watch(etcd.keys.nodes_prefix, start_revision=start)) as batches:
        with pytest.raises(Compacted) as caught:
            [batch async for batch in batches]
    assert caught.value.revision == last


async def test_broken_connection_ends_watch(etcd_server: EtcdServer) -> None:
    async with Relay(etcd_server.port) as relay, Etcd(Settings((relay.endpoint,))) as etcd, asyncio.timeout(5):
        batches = etcd.watch("/k/", start_revision=0)
        await anext(batches)
        relay.cut()
        with pytest.raises(WatchLost):
            await anext(batches)


async def test_silent_server_times_out(etcd_server: EtcdServer) -> None:
    async with Relay(etcd_server.port) as relay, Etcd(Settings((relay.endpoint,)), timeout=0.4) as etcd:
        await etcd.get("/k")
        relay.hold()
        with pytest.raises((Unavailable, WatchLost)):
            await anext(etcd.watch("/k/", start_revision=0))


async def test_dead_member_is_detected_by_keepalive(etcd_server: EtcdServer) -> None:
    async with Relay(etcd_server.port) as relay, Etcd(Settings((relay.endpoint,))) as etcd, asyncio.timeout(17):
        batches = etcd.watch("/k/", start_revision=0)
        await anext(batches)
        relay.hold()
        with pytest.raises(WatchLost):
            await anext(batches)


async def test_member_without_quorum_fails_watch(tmp_path: Path) -> None:
    """etcd does this for streams that ask for a leader; otherwise the minority's side would only be silent."""
    need_etcd()
    members = EtcdServer.cluster(tmp_path, 3)
    try:
        for member in members:
            member.spawn()
        for member in members:
            await asyncio.to_thread(member.wait_ready)
        async with Etcd(members[0].settings()) as etcd, asyncio.timeout(10):
            batches = etcd.watch("/k/", start_revision=0)
            await anext(batches)
            for member in members[1:]:
                member.kill()
            with pytest.raises(WatchLost, match="no leader"):
                await anext(batches)
    finally:
        for member in members:
            member.kill()


class CancellingWatch:
    """Server of etcd's watch protocol that creates a watch, sends an event, and cancels the watch."""

    def __init__(self, reason: str, compact_revision: int = 0) -> None:
        self._last = rpc.WatchResponse(
            watch_id=1, canceled=True, cancel_reason=reason, compact_revision=compact_revision
        )

    async def watch(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async for _ in requests:
            yield rpc.WatchResponse(watch_id=1, created=True)
            yield rpc.WatchResponse(watch_id=1, events=[rpc.Event(kv=rpc.KeyValue(key=b"/k/a", mod_revision=1))])
            yield self._last


@pytest.mark.parametrize(
    ("server", "error"),
    [
        (CancellingWatch("etcdserver: mvcc: required revision has been compacted", 7), Compacted),
        (CancellingWatch("rpc error: code = PermissionDenied desc = etcdserver: permission denied"), PermissionDenied),
        (CancellingWatch("rpc error: code = Unauthenticated desc = etcdserver: invalid auth token"), Unauthenticated),
        (CancellingWatch(""), WatchLost),
        (CancellingWatch("whatever comes next"), WatchLost),
    ],
)
async def test_cancelled_watch_ends(server: CancellingWatch, error: type[StoreError]) -> None:
    async with watch_server(server.watch) as settings, Etcd(settings) as etcd, asyncio.timeout(5):
        batches = etcd.watch("/k/", start_revision=1)
        assert (await anext(batches)).events == ()
        assert [event.key for event in (await anext(batches)).events] == ["/k/a"]
        with pytest.raises(error):
            await anext(batches)


async def test_closing_the_connection_does_not_look_like_cancellation(settings: Settings) -> None:
    async with Etcd(settings) as etcd:
        batches = etcd.watch(etcd.keys.nodes_prefix, start_revision=0)
        await anext(batches)
        waiting = asyncio.ensure_future(anext(batches))
        await asyncio.sleep(0)
    with pytest.raises(WatchLost, match="has been closed"):
        await waiting
    with pytest.raises(Unavailable, match="has been closed"):
        await etcd.get("/k")
