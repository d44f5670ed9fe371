"""Watches through the gateway: fan-out, resumption, compaction, a slow watcher, and the loss of etcd."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from pathlib import Path

import grpc
import grpc.aio
import pytest

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.etcd.v3 import etcd_pb2 as rpc
from devopsellence.etcd.v3.etcd_pb2_grpc import WatchStub
from devopsellence.store.codec import encode
from devopsellence.store.errors import Compacted, WatchLost
from devopsellence.store.etcd import Etcd, Put
from devopsellence.store.informer import Informer
from devopsellence.store.record import message_of
from tests.integration.gateway.key_classes import OTHER, OWN, fields
from tests.support.authority import Authority
from tests.support.etcd import EtcdServer
from tests.support.gateway import RunningGateway, open_channel, running_gateway
from tests.support.need import need_etcd
from tests.support.relay import Relay
from tests.support.until import eventually

pytestmark = pytest.mark.etcd

NODES = [f"n{number}" for number in range(40)]


async def test_many_nodes_are_served_by_one_watch(gateway: RunningGateway) -> None:
    await gateway.register(*NODES)
    keys = gateway.direct.keys
    async with AsyncExitStack() as stack, asyncio.timeout(30):
        watches = {}
        for node in NODES:
            etcd = await stack.enter_async_context(Etcd(gateway.node(node)))
            batches = etcd.watch(keys.assignments_prefix(node), start_revision=0)
            await stack.enter_async_context(aclosing(batches))
            await anext(batches)
            watches[node] = batches
        assert gateway.gateway.watchers == len(NODES)
        for node in NODES:
            await gateway.direct.put(keys.assignment(node, OWN), node.encode())
        for node, batches in watches.items():
            batch = await anext(batches)
            assert [event.kv.value for event in batch.events if event.kv] == [node.encode()]
    await eventually("the watches of callers that are gone end", watchers_of(gateway), lambda count: count == 0)


def watchers_of(gateway: RunningGateway) -> Callable[[], Awaitable[int]]:
    async def look() -> int:
        return gateway.gateway.watchers

    return look


async def test_watch_resumes_where_it_ended(gateway: RunningGateway) -> None:
    keys = gateway.direct.keys
    revisions = [await gateway.direct.put(keys.node(f"n{number}"), b"{}") for number in range(5)]
    async with Etcd(gateway.root()) as etcd, asyncio.timeout(10):
        for at, revision in enumerate(revisions):
            async with aclosing(etcd.watch(keys.nodes_prefix, start_revision=revision)) as batches:
                await anext(batches)
                batch = await anext(batches)
                assert [event.mod_revision for event in batch.events] == revisions[at:]


async def test_silent_caller_is_noticed(gateway: RunningGateway) -> None:
    """A machine that vanished without a word: the connection stays open, and nobody reads."""
    port = int(gateway.address.rpartition(":")[2])
    async with Relay(port) as relay, Etcd(replace(gateway.root(), endpoints=(relay.endpoint,))) as etcd:
        batches = etcd.watch(etcd.keys.nodes_prefix, start_revision=0)
        await anext(batches)
        assert gateway.gateway.watchers == 1
        relay.hold()
        await eventually("the watch ends", watchers_of(gateway), lambda count: count == 0)


async def test_watches_of_one_stream_are_independent(gateway: RunningGateway) -> None:
    await gateway.register("n1", "n2")
    keys = gateway.direct.keys

    def create(prefix: str) -> rpc.WatchRequest:
        start, end = prefix.encode(), prefix[:-1].encode() + b"0"
        return rpc.WatchRequest(create_request=rpc.WatchCreateRequest(key=start, range_end=end))

    async with open_channel(gateway.node("n1")) as channel, asyncio.timeout(10):
        stream = WatchStub(channel).Watch()

        async def answer() -> rpc.WatchResponse:
            read = await stream.read()
            assert isinstance(read, rpc.WatchResponse)
            return read

        await stream.write(create(keys.assignments_prefix("n1")))
        await stream.write(create(keys.assignments_prefix("n2")))
        await stream.write(create(keys.ingress_prefix("n1")))
        created = [await answer() for _ in range(3)]
        assert sorted((one.watch_id, one.canceled) for one in created) == [(-1, True), (1, False), (2, False)]
        refused = next(one for one in created if one.canceled)
        assert "etcdserver: permission denied" in refused.cancel_reason
        await stream.write(rpc.WatchRequest(cancel_request=rpc.WatchCancelRequest(watch_id=1)))
        gone = await answer()
        assert (gone.watch_id, gone.canceled) == (1, True)
        await gateway.direct.put(keys.assignment("n1", OWN), b"{}")
        await gateway.direct.put(keys.ingress("n1", OWN, "+peers"), b"{}")
        told = await answer()
        assert (told.watch_id, [event.kv.key.decode() for event in told.events]) == (
            2,
            [keys.ingress("n1", OWN, "+peers")],
        )
        for watch_id in (7, 2, 7):
            chosen = create(keys.assignments_prefix("n1"))
            chosen.create_request.watch_id = watch_id
            await stream.write(chosen)
        chosen_ids = [await answer() for _ in range(3)]
        assert sorted((one.watch_id, one.canceled) for one in chosen_ids) == [(2, True), (7, False), (7, True)]
        await stream.write(rpc.WatchRequest(progress_request=rpc.WatchProgressRequest()))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_watch_with_values_before_goes_to_etcd_and_is_filtered(gateway: RunningGateway) -> None:
    await gateway.grant("ann", str(OWN))
    keys = gateway.direct.keys
    prefix = keys.all_secrets_prefix.encode()
    create = rpc.WatchCreateRequest(key=prefix, range_end=prefix[:-1] + b"0", prev_kv=True)
    async with open_channel(gateway.operator("ann")) as channel, asyncio.timeout(10):
        stream = WatchStub(channel).Watch()
        await stream.write(rpc.WatchRequest(create_request=create))
        await stream.read()
        own = keys.secret(OWN, "web", "KEY")
        for value in (b"1", b"2"):
            await gateway.direct.txn([], [Put(keys.secret(OTHER, "web", "KEY"), b"hidden"), Put(own, value)])
        seen: list[tuple[str, bytes, bytes]] = []
        while len(seen) < 2:
            answer = await stream.read()
            assert isinstance(answer, rpc.WatchResponse)
            seen += [(event.kv.key.decode(), event.prev_kv.value, event.kv.value) for event in answer.events]
        assert seen == [(own, b"", b"1"), (own, b"1", b"2")]


async def test_watch_before_the_gateway_began_goes_to_etcd(
    gateway: RunningGateway, etcd_server: EtcdServer, authority: Authority
) -> None:
    keys = gateway.direct.keys
    first = await gateway.direct.put(keys.node("n1"), b"{}")
    second = await gateway.direct.put(keys.node("n2"), b"{}")
    settings = etcd_server.settings(keys.prefix)
    async with running_gateway(settings, authority) as later, Etcd(later.root()) as etcd, asyncio.timeout(10):
        async with aclosing(etcd.watch(keys.nodes_prefix, start_revision=first)) as batches:
            await anext(batches)
            assert [event.mod_revision for event in (await anext(batches)).events] == [first, second]
        await asyncio.to_thread(etcd_server.etcdctl, "compact", str(second))
        async with aclosing(etcd.watch(keys.nodes_prefix, start_revision=first)) as batches:
            with pytest.raises(Compacted) as caught:
                [batch async for batch in batches]
        assert caught.value.revision == second


async def test_watch_ahead_of_the_gateway_waits(gateway: RunningGateway) -> None:
    """A revision of a key elsewhere, which the gateway does not watch, moves a reader ahead of the gateway."""
    keys = gateway.direct.keys
    elsewhere = await gateway.direct.put(f"/elsewhere{keys.prefix}x", b"")
    async with Etcd(gateway.root()) as etcd, AsyncExitStack() as stack, asyncio.timeout(10):
        batches = etcd.watch(keys.nodes_prefix, start_revision=elsewhere + 1)
        await stack.enter_async_context(aclosing(batches))
        assert (await anext(batches)).revision >= elsewhere
        revision = await gateway.direct.put(keys.node("n1"), b"{}")
        assert [event.mod_revision for event in (await anext(batches)).events] == [revision]


async def test_watcher_that_does_not_read_is_cut_off_and_resumes(gateway: RunningGateway) -> None:
    await gateway.grant("ann", str(OWN))
    keys = gateway.direct.keys
    big = encode(pb.Environment(**fields(OWN), nodes=["x" * 500_000]))
    key = keys.environment(OWN)

    async def requests() -> AsyncIterator[rpc.WatchRequest]:
        yield rpc.WatchRequest(create_request=rpc.WatchCreateRequest(key=key.encode()))

    async with open_channel(gateway.operator("ann")) as channel, asyncio.timeout(30):
        silent = WatchStub(channel).Watch(requests())
        await silent.read()
        written = [await gateway.direct.put(key, big) for _ in range(60)]
        seen: list[int] = []
        try:
            while isinstance(answer := await silent.read(), rpc.WatchResponse):
                seen += [event.kv.mod_revision for event in answer.events]
        except grpc.aio.AioRpcError as error:
            ending = error.details() or ""
        else:
            ending = "the stream ended without an error"
        assert "too slow" in ending
        assert seen == written[: len(seen)]
        assert len(seen) < len(written)
    async with Etcd(gateway.operator("ann")) as etcd, asyncio.timeout(30):
        async with aclosing(etcd.watch(key, start_revision=seen[-1] + 1 if seen else written[0])) as batches:
            await anext(batches)
            rest: list[int] = []
            while len(seen) + len(rest) < len(written):
                rest += [event.mod_revision for event in (await anext(batches)).events]
        assert seen + rest == written


async def test_watches_outlive_a_restart_of_etcd_and_end_with_a_long_loss(tmp_path: Path) -> None:
    need_etcd()
    authority = Authority(tmp_path / "ca")
    with EtcdServer(tmp_path / "etcd") as server:
        async with running_gateway(server.settings(), authority) as gateway, Etcd(gateway.root()) as etcd:
            keys = gateway.direct.keys
            changed = asyncio.Event()
            informer = Informer(etcd, keys.nodes_prefix, pb.Node, lambda _: changed.set())
            following = asyncio.create_task(informer.run())
            async with asyncio.timeout(30):
                await informer.synced()
                await asyncio.to_thread(server.restart)
                await gateway.direct.put(keys.node("n1"), encode(pb.Node(name="n1")))
                await changed.wait()
                assert list(informer.records) == [keys.node("n1")]
                batches = etcd.watch(keys.nodes_prefix, start_revision=0)
                await anext(batches)
                await asyncio.to_thread(server.kill)
                with pytest.raises(WatchLost):
                    await anext(batches)
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


async def test_changes_after_a_restore_reach_watchers_although_their_revisions_were_used_before(tmp_path: Path) -> None:
    """A watch from a revision of the history before would hear of nothing until that revision is reached again."""
    need_etcd()
    authority = Authority(tmp_path / "ca")
    with EtcdServer(tmp_path / "etcd") as server:
        async with running_gateway(server.settings(), authority) as gateway, Etcd(gateway.root()) as etcd:
            keys = gateway.direct.keys
            node = keys.node("n1")
            changes: asyncio.Queue[str] = asyncio.Queue()
            informer = Informer(etcd, keys.nodes_prefix, pb.Node, changes.put_nowait)
            following = asyncio.create_task(informer.run())
            async with asyncio.timeout(60):
                await informer.synced()
                await asyncio.to_thread(server.snapshot, tmp_path / "snapshot.db")
                for number in range(40):
                    await gateway.direct.put(keys.node("lost"), encode(pb.Node(name="lost", uid=f"u{number}")))
                while await changes.get() != keys.node("lost"):
                    pass
                await asyncio.to_thread(server.stop)
                await asyncio.to_thread(server.restore, tmp_path / "snapshot.db")
                await asyncio.to_thread(server.start)
                await eventually("the restore is noticed", lambda: asyncio.sleep(0, informer.epoch), lambda n: n == 1)
                for uid in ("u1", "u2", "u3"):
                    await gateway.direct.put(node, encode(pb.Node(name="n1", uid=uid)))
                    while message_of(informer.records.get(node)) != pb.Node(name="n1", uid=uid):
                        await changes.get()
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
