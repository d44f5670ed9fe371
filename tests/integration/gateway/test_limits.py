"""Limits against a real server: a node that writes without end fills nothing and holds up nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path

import grpc
import grpc.aio
import pytest

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.gateway.rules.caller import Role
from devopsellence.controller.gateway.rules.limits import PROFILES
from devopsellence.controller.gateway.rules.reports import UNASSIGNED_STATUSES
from devopsellence.etcd.v3 import etcd_pb2 as rpc
from devopsellence.etcd.v3.etcd_pb2_grpc import KVStub, LeaseStub, WatchStub
from devopsellence.store.codec import encode
from devopsellence.store.errors import PermissionDenied, StoreError, Unavailable
from devopsellence.store.etcd import Etcd, Put
from devopsellence.store.keys import EnvironmentRef
from tests.integration.gateway.key_classes import OWN, fields
from tests.support.authority import Authority
from tests.support.etcd import EtcdServer
from tests.support.gateway import RunningGateway, open_channel, running_gateway
from tests.support.need import need_etcd

pytestmark = pytest.mark.etcd

NODE = PROFILES[Role.NODE]


def status(node: str, ref: EnvironmentRef) -> bytes:
    return encode(pb.AssignmentStatus(node=node, node_uid=f"uid-{node}", **fields(ref)))


async def outcome_of(call: Awaitable[object]) -> object:
    """Return the answer of a call, or its error."""
    try:
        return await call
    except (StoreError, grpc.aio.AioRpcError) as error:
        return error


async def exchange(
    stream: grpc.aio.StreamStreamCall[rpc.WatchRequest, rpc.WatchResponse], request: rpc.WatchRequest
) -> rpc.WatchResponse:
    """Send a request and return the next answer."""
    await stream.write(request)
    answer = await stream.read()
    assert isinstance(answer, rpc.WatchResponse)
    return answer


async def test_node_cannot_fill_etcd_with_events(gateway: RunningGateway) -> None:
    await gateway.register("n1", "n2")
    keys = gateway.direct.keys
    for node in ("n1", "n2"):
        await gateway.direct.put(keys.assignment(node, OWN), b"{}")
    async with Etcd(gateway.node("n1")) as etcd, Etcd(gateway.node("n2")) as other:
        lease = await etcd.grant_lease(60)
        value = encode(pb.Event(node="n1", source="agent/n1", message="x" * 3000))
        assert len(value) * NODE.events.burst < NODE.event_bytes.burst
        batches = [[Put(keys.event(OWN, f"{batch}-{at}"), value, lease) for at in range(90)] for batch in range(100)]
        outcomes = [await outcome_of(etcd.txn([], batch)) for batch in batches]
        assert isinstance(outcomes[-1], Unavailable)
        assert "the limit of" in str(outcomes[-1])
        stored = await gateway.direct.list(keys.events_prefix(OWN), keys_only=True)
        assert len(stored.items) <= NODE.events.burst
        # Neither its own heartbeat nor another node is held up.
        await etcd.put(keys.heartbeat("n1"), encode(pb.Heartbeat(node="n1", uid="uid-n1")), lease=lease)
        await other.put(
            keys.status("n2", OWN), encode(pb.AssignmentStatus(node="n2", node_uid="uid-n2", **fields(OWN)))
        )


async def test_node_cannot_invent_environments(gateway: RunningGateway) -> None:
    await gateway.register("n1")
    keys = gateway.direct.keys
    async with Etcd(gateway.node("n1")) as etcd:
        refs = [EnvironmentRef("acme", "shop", f"e{number}") for number in range(UNASSIGNED_STATUSES + 1)]
        outcomes = [await outcome_of(etcd.put(keys.status("n1", ref), status("n1", ref))) for ref in refs]
        assert not any(isinstance(outcome, Exception) for outcome in outcomes[:-1])
        assert isinstance(outcomes[-1], PermissionDenied)
        await gateway.direct.put(keys.assignment("n1", OWN), b"{}")
        await etcd.put(keys.status("n1", OWN), status("n1", OWN))
        # A status of an environment gives no right to write its events.
        lease = await etcd.grant_lease(60)
        forged = encode(pb.Event(node="n1", source="agent/n1"))
        assert isinstance(await outcome_of(etcd.put(keys.event(refs[0], "e1"), forged, lease=lease)), PermissionDenied)
        # Nor does a branch that was not taken count as written.
        never = EnvironmentRef("acme", "shop", "never")
        put = rpc.PutRequest(key=keys.status("n1", never).encode(), value=status("n1", never))
        untaken = rpc.TxnRequest(failure=[rpc.RequestOp(request_put=put)])
        async with open_channel(gateway.node("n1")) as channel:
            await gateway.direct.put(keys.assignment("n1", never), b"{}")
            assert (await KVStub(channel).Txn(untaken)).succeeded
            await gateway.direct.delete(keys.assignment("n1", never))
            with pytest.raises(grpc.aio.AioRpcError, match="is not assigned to node n1"):
                await KVStub(channel).Put(put)
    stored = await gateway.direct.list(keys.statuses_prefix("n1"), keys_only=True)
    assert len(stored.items) == UNASSIGNED_STATUSES + 1


async def test_node_cannot_invent_environments_in_one_request(gateway: RunningGateway) -> None:
    await gateway.register("n1")
    keys = gateway.direct.keys
    refs = [EnvironmentRef("acme", "shop", f"e{number}") for number in range(UNASSIGNED_STATUSES + 1)]
    async with Etcd(gateway.node("n1")) as etcd:
        puts = [Put(keys.status("n1", ref), status("n1", ref)) for ref in refs]
        assert isinstance(await outcome_of(etcd.txn([], puts)), PermissionDenied)
        await etcd.txn([], puts[:-1])
    stored = await gateway.direct.list(keys.statuses_prefix("n1"), keys_only=True)
    assert len(stored.items) == UNASSIGNED_STATUSES


async def test_node_cannot_take_leases_without_end(gateway: RunningGateway) -> None:
    await gateway.register("n1")
    async with open_channel(gateway.node("n1")) as channel:
        lease = LeaseStub(channel)
        for ttl in (0, 1, 24 * 3600 + 1, 2**60):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await lease.LeaseGrant(rpc.LeaseGrantRequest(TTL=ttl))
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        granted = [await outcome_of(lease.LeaseGrant(rpc.LeaseGrantRequest(TTL=60))) for _ in range(NODE.live_leases)]
        assert isinstance(granted[0], rpc.LeaseGrantResponse)
        assert isinstance(granted[-1], grpc.aio.AioRpcError)
        assert granted[-1].code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_many_calls_at_once_on_one_connection_are_all_answered(gateway: RunningGateway) -> None:
    """The server takes so many at once, and the rest waits at the caller."""
    async with open_channel(gateway.controller()) as channel:
        kv = KVStub(channel)
        request = rpc.RangeRequest(key=gateway.direct.keys.nodes_prefix.encode())
        answers = await asyncio.gather(*(kv.Range(request) for _ in range(5_000)))
        assert len(answers) == 5_000


async def test_calls_beyond_the_limit_of_a_caller_are_refused_as_not_processed(tmp_path: Path) -> None:
    need_etcd()
    with EtcdServer(tmp_path / "etcd") as server:
        async with running_gateway(server.settings(), Authority(tmp_path / "ca")) as gateway:
            await gateway.register("n1")
            key = gateway.direct.keys.node("n1")
            async with open_channel(gateway.node("n1")) as channel:
                kv = KVStub(channel)
                request = rpc.RangeRequest(key=key.encode())
                await kv.Range(request)
                # None of the calls ends before all have come.
                server.pause()
                calls = [kv.Range(request, timeout=3) for _ in range(3 * NODE.calls)]
                outcomes = await asyncio.gather(*calls, return_exceptions=True)
                server.resume()
                codes = [error.code() for error in outcomes if isinstance(error, grpc.aio.AioRpcError)]
                assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 2 * NODE.calls
            # The store's client sends such a request again.
            async with Etcd(gateway.node("n1")) as etcd:
                assert all(await asyncio.gather(*(etcd.get(key) for _ in range(300))))


async def test_streams_of_one_caller_are_bounded(gateway: RunningGateway) -> None:
    await gateway.register("n1")
    async with open_channel(gateway.node("n1")) as channel:
        create = rpc.WatchCreateRequest(key=gateway.direct.keys.node("n1").encode())
        streams = []
        for _ in range(NODE.streams):
            stream = WatchStub(channel).Watch()
            await stream.write(rpc.WatchRequest(create_request=create))
            await stream.read()
            streams.append(stream)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await WatchStub(channel).Watch().read()
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_watches_of_one_caller_are_bounded_on_all_its_streams(gateway: RunningGateway) -> None:
    await gateway.register("n1")
    async with open_channel(gateway.node("n1")) as channel:
        create = rpc.WatchRequest(create_request=rpc.WatchCreateRequest(key=gateway.direct.keys.node("n1").encode()))
        first, second = WatchStub(channel).Watch(), WatchStub(channel).Watch()
        for stream in (first, second):
            for _ in range(NODE.watches // 2):
                assert not (await exchange(stream, create)).canceled
        answer = await exchange(second, create)
        assert answer.canceled
        assert "watches of one caller" in answer.cancel_reason
        # One that ends makes room.
        cancel = rpc.WatchRequest(cancel_request=rpc.WatchCancelRequest(watch_id=1))
        assert (await exchange(first, cancel)).canceled
        assert not (await exchange(second, create)).canceled


async def test_oversized_request_does_not_reach_etcd(gateway: RunningGateway) -> None:
    async with open_channel(gateway.controller()) as channel:
        request = rpc.PutRequest(key=gateway.direct.keys.node("n1").encode(), value=b"x" * (3 << 20))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await KVStub(channel).Put(request)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_refusal_of_a_huge_value_is_answered_with_its_reason(gateway: RunningGateway) -> None:
    await gateway.register("n1")
    key = gateway.direct.keys.heartbeat("n1").encode()
    async with open_channel(gateway.node("n1")) as channel:
        lease = (await LeaseStub(channel).LeaseGrant(rpc.LeaseGrantRequest(TTL=60))).ID
        value = encode(pb.Heartbeat(node="\u00e9" * 10_000, uid="uid-n1"))
        with pytest.raises(grpc.aio.AioRpcError, match="node is ") as caught:
            await KVStub(channel).Put(rpc.PutRequest(key=key, value=value, lease=lease))
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
