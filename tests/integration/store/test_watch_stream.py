"""All watches of a connection on one stream, against a server that is told what to answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest

from devopsellence.etcd.v3 import etcd_pb2 as rpc
from devopsellence.store.errors import Compacted, PermissionDenied, Unavailable, WatchLost
from devopsellence.store.etcd import Etcd
from tests.support.until import eventually
from tests.support.watch_server import watch_server


class ScriptedWatch:
    """Server of etcd's watch protocol that records requests, and answers creations unless it is to be silent."""

    def __init__(self) -> None:
        self.streams: list[grpc.aio.ServicerContext[Any, Any]] = []
        self.requests: list[rpc.WatchRequest] = []
        self.silent = False
        # A stream of gRPC takes one write at a time.
        self._writing = asyncio.Lock()

    async def watch(self, requests: AsyncIterator[rpc.WatchRequest], context: Any) -> None:
        self.streams.append(context)
        try:
            async for request in requests:
                self.requests.append(request)
                if request.HasField("create_request") and not self.silent:
                    created = request.create_request.watch_id
                    await self.answer(rpc.WatchResponse(created=True, watch_id=created), context)
        finally:
            self.streams.remove(context)

    async def tell(self, watch_id: int, key: str, *, fragment: bool = False) -> None:
        event = rpc.Event(kv=rpc.KeyValue(key=key.encode(), mod_revision=7))
        await self.answer(rpc.WatchResponse(watch_id=watch_id, events=[event], fragment=fragment))

    async def answer(self, response: rpc.WatchResponse, context: Any = None) -> None:
        async with self._writing:
            await (context or self.streams[0]).write(response)

    @property
    def cancelled(self) -> list[int]:
        return [request.cancel_request.watch_id for request in self.requests if request.HasField("cancel_request")]


@pytest.fixture
def server() -> ScriptedWatch:
    return ScriptedWatch()


@pytest.fixture
async def scripted(server: ScriptedWatch) -> AsyncIterator[Etcd]:
    async with watch_server(server.watch) as settings, Etcd(settings, timeout=1.0) as etcd, asyncio.timeout(20):
        yield etcd


async def keys_of(batches: Any) -> list[str]:
    return [event.key for event in (await anext(batches)).events]


async def count_of_streams(server: ScriptedWatch) -> int:
    return len(server.streams)


async def test_watches_share_a_stream_and_get_their_own_answers(server: ScriptedWatch, scripted: Etcd) -> None:
    first, second = (scripted.watch(f"/{name}/", start_revision=1) for name in "ab")
    await asyncio.gather(anext(first), anext(second))
    assert len(server.streams) == 1
    by_id = {request.create_request.watch_id: request.create_request.key.decode() for request in server.requests}
    for id_, prefix in by_id.items():
        await server.tell(id_, f"{prefix}x")
    assert (await keys_of(first), await keys_of(second)) == (["/a/x"], ["/b/x"])


async def test_fragments_of_two_watches_may_alternate(server: ScriptedWatch, scripted: Etcd) -> None:
    first, second = (scripted.watch(f"/{name}/", start_revision=1) for name in "ab")
    await anext(first)
    await anext(second)
    for id_, key, fragment in ((1, "/a/1", True), (2, "/b/1", True), (1, "/a/2", False), (2, "/b/2", False)):
        await server.tell(id_, key, fragment=fragment)
    assert (await keys_of(first), await keys_of(second)) == (["/a/1", "/a/2"], ["/b/1", "/b/2"])


async def test_closed_watch_is_cancelled_and_the_stream_ends_with_the_last(
    server: ScriptedWatch, scripted: Etcd
) -> None:
    first, second = (scripted.watch(f"/{name}/", start_revision=1) for name in "ab")
    await anext(first)
    await anext(second)
    await first.aclose()

    async def cancelled() -> list[int]:
        return server.cancelled

    await eventually("the first watch is cancelled", cancelled, [1].__eq__)
    await server.tell(1, "/a/late")
    await server.tell(2, "/b/x")
    assert await keys_of(second) == ["/b/x"]
    await second.aclose()
    await eventually("the stream has ended", lambda: count_of_streams(server), (0).__eq__)


async def test_watch_given_up_before_its_answer_leaves_the_others_alone(server: ScriptedWatch, scripted: Etcd) -> None:
    kept = scripted.watch("/kept/", start_revision=1)
    await anext(kept)
    server.silent = True
    given_up = asyncio.ensure_future(anext(scripted.watch("/given-up/", start_revision=1)))

    async def count_of_requests() -> int:
        return len(server.requests)

    await eventually("the second watch is requested", count_of_requests, (2).__eq__)
    given_up.cancel()

    async def cancelled() -> list[int]:
        return server.cancelled

    await eventually("the second watch is cancelled", cancelled, [2].__eq__)
    server.silent = False
    next_one = scripted.watch("/next/", start_revision=1)
    await anext(next_one)
    # Late answers to the second are nobody's.
    await server.answer(rpc.WatchResponse(created=True, watch_id=2))
    await server.tell(2, "/given-up/x")
    await server.tell(1, "/kept/x")
    await server.tell(3, "/next/x")
    assert (await keys_of(kept), await keys_of(next_one)) == (["/kept/x"], ["/next/x"])


async def test_creations_are_requested_at_once_and_answered_in_any_order(server: ScriptedWatch, scripted: Etcd) -> None:
    server.silent = True
    watches = [scripted.watch(f"/{name}/", start_revision=1) for name in "abc"]
    confirmed = [asyncio.ensure_future(anext(watch)) for watch in watches]

    async def count_of_requests() -> int:
        return len(server.requests)

    await eventually("all are requested", count_of_requests, (3).__eq__)
    ids = [request.create_request.watch_id for request in server.requests]
    for watch_id in reversed(ids):
        await server.answer(rpc.WatchResponse(created=True, watch_id=watch_id))
    await asyncio.gather(*confirmed)
    by_id = {request.create_request.watch_id: request.create_request.key.decode() for request in server.requests}
    for watch_id, prefix in by_id.items():
        await server.tell(watch_id, f"{prefix}x")
    assert [await keys_of(watch) for watch in watches] == [["/a/x"], ["/b/x"], ["/c/x"]]


async def test_refusal_without_an_id_is_for_the_first_that_waits(server: ScriptedWatch, scripted: Etcd) -> None:
    kept = scripted.watch("/kept/", start_revision=1)
    await anext(kept)
    server.silent = True
    refused, answered = (asyncio.ensure_future(anext(scripted.watch(f"/{name}/", start_revision=1))) for name in "ab")

    async def count_of_requests() -> int:
        return len(server.requests)

    await eventually("both are requested", count_of_requests, (3).__eq__)
    denial = "rpc error: code = PermissionDenied desc = etcdserver: permission denied"
    await server.answer(rpc.WatchResponse(created=True, canceled=True, watch_id=-1, cancel_reason=denial))
    await server.answer(rpc.WatchResponse(created=True, watch_id=3))
    with pytest.raises(PermissionDenied):
        await refused
    await answered
    await server.tell(1, "/kept/x")
    assert await keys_of(kept) == ["/kept/x"]


async def test_server_that_chooses_ids_itself_is_refused(server: ScriptedWatch, scripted: Etcd) -> None:
    server.silent = True
    waiting = asyncio.ensure_future(anext(scripted.watch("/a/", start_revision=1)))

    async def count_of_requests() -> int:
        return len(server.requests)

    await eventually("it is requested", count_of_requests, (1).__eq__)
    await server.answer(rpc.WatchResponse(created=True, watch_id=0))
    with pytest.raises(WatchLost, match="chooses the ids"):
        await waiting


async def test_silence_about_a_new_watch_ends_the_stream(server: ScriptedWatch, scripted: Etcd) -> None:
    open_before = scripted.watch("/a/", start_revision=1)
    await anext(open_before)
    server.silent = True
    with pytest.raises(Unavailable, match="watch /b/"):
        await anext(scripted.watch("/b/", start_revision=1))
    with pytest.raises(WatchLost, match="watch /a/: etcd does not answer"):
        await anext(open_before)
    server.silent = False
    await anext(scripted.watch("/b/", start_revision=1))


async def test_cancellation_by_the_server_ends_one_watch(server: ScriptedWatch, scripted: Etcd) -> None:
    first, second = (scripted.watch(f"/{name}/", start_revision=1) for name in "ab")
    await anext(first)
    await anext(second)
    await server.answer(rpc.WatchResponse(watch_id=1, canceled=True, compact_revision=5))
    with pytest.raises(Compacted):
        await anext(first)
    await server.tell(2, "/b/x")
    assert await keys_of(second) == ["/b/x"]
    assert server.cancelled == []


async def test_other_endpoints_are_used_by_the_next_watch(server: ScriptedWatch, scripted: Etcd) -> None:
    before = scripted.watch("/a/", start_revision=1)
    await anext(before)
    other = ScriptedWatch()
    async with watch_server(other.watch) as settings:
        scripted.use_endpoints(settings.endpoints)
        after = scripted.watch("/b/", start_revision=1)
        await anext(after)
        assert (len(server.streams), len(other.streams)) == (1, 1)
        await server.tell(1, "/a/x")
        assert await keys_of(before) == ["/a/x"]
