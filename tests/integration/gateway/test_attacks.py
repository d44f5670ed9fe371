"""Attacks that worked against etcd's own users and roles, each refused by the gateway."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import grpc
import grpc.aio
import pytest

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.etcd.v3 import etcd_pb2 as rpc
from devopsellence.etcd.v3.etcd_pb2_grpc import KVStub
from devopsellence.store.codec import encode
from devopsellence.store.types import KeyListing
from tests.integration.gateway.key_classes import OWN, fields, records
from tests.support.gateway import RunningGateway, open_channel

pytestmark = pytest.mark.etcd

Attack = Callable[[grpc.aio.Channel], Awaitable[object]]


async def attacked(gateway: RunningGateway, attack: Attack) -> None:
    """Run an attack with the certificate of node n2; nothing may be answered and nothing written."""
    await gateway.register("n1", "n2")
    for key, value in records(gateway.direct.keys, "ann").values():
        await gateway.direct.put(key, value)
    before = await state(gateway)
    async with open_channel(gateway.node("n2")) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await attack(channel)
    assert caught.value.code() in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED)
    assert (await state(gateway)).items == before.items


async def state(gateway: RunningGateway) -> KeyListing:
    return await gateway.direct.list(gateway.direct.keys.prefix)


async def test_nested_transaction_reads_nothing_and_names_no_recipient(gateway: RunningGateway) -> None:
    prefix = gateway.direct.keys.prefix.encode()
    attacker = encode(pb.Operator(name="helper", age_recipient="age1attacker"))

    async def attack(channel: grpc.aio.Channel) -> None:
        read = rpc.RequestOp(request_range=rpc.RangeRequest(key=prefix, range_end=prefix[:-1] + b"0"))
        put = rpc.RequestOp(request_put=rpc.PutRequest(key=prefix + b"operators/helper", value=attacker))
        inner = rpc.RequestOp(request_txn=rpc.TxnRequest(success=[read, put]))
        await KVStub(channel).Txn(rpc.TxnRequest(success=[inner]))

    await attacked(gateway, attack)


async def test_node_forges_no_release(gateway: RunningGateway) -> None:
    key = gateway.direct.keys.release(OWN, 2).encode()
    release = encode(pb.Release(number=2, created_by="ann@laptop", **fields(OWN)))

    async def attack(channel: grpc.aio.Channel) -> None:
        absent = rpc.Compare(key=key, target=rpc.Compare.CREATE, create_revision=0)
        put = rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=release))
        await KVStub(channel).Txn(rpc.TxnRequest(compare=[absent], success=[put]))

    await attacked(gateway, attack)


async def test_node_reads_no_secret_by_comparing(gateway: RunningGateway) -> None:
    key = gateway.direct.keys.secret(OWN, "web", "KEY").encode()

    async def attack(channel: grpc.aio.Channel) -> None:
        guess = rpc.Compare(key=key, target=rpc.Compare.VALUE, result=rpc.Compare.GREATER, value=b"m")
        await KVStub(channel).Txn(rpc.TxnRequest(compare=[guess]))

    await attacked(gateway, attack)


async def test_node_learns_no_event_by_its_value_before(gateway: RunningGateway) -> None:
    key = gateway.direct.keys.event(OWN, "e1").encode()
    event = encode(pb.Event(node="n2", source="agent/n2"))

    async def attack(channel: grpc.aio.Channel) -> None:
        await KVStub(channel).Put(rpc.PutRequest(key=key, value=event, prev_kv=True))

    await attacked(gateway, attack)


async def test_node_deletes_no_events(gateway: RunningGateway) -> None:
    prefix = gateway.direct.keys.all_events_prefix.encode()

    async def attack(channel: grpc.aio.Channel) -> None:
        await KVStub(channel).DeleteRange(rpc.DeleteRangeRequest(key=prefix, range_end=prefix[:-1] + b"0"))

    await attacked(gateway, attack)


@pytest.mark.parametrize("method", ["Auth/AuthDisable", "Auth/RoleGrantPermission", "Maintenance/Alarm", "KV/Compact"])
async def test_switches_of_etcd_do_not_exist(gateway: RunningGateway, method: str) -> None:
    """Once NOSPACE was raised, etcd refused these no longer."""

    async def attack(channel: grpc.aio.Channel) -> None:
        await channel.unary_unary(f"/etcdserverpb.{method}")(b"")  # type: ignore[arg-type]

    await attacked(gateway, attack)


async def test_unknown_field_hides_nothing(gateway: RunningGateway) -> None:
    """A field that the gateway does not know might mean something to a later etcd."""
    own = gateway.direct.keys.node("n2").encode()

    async def attack(channel: grpc.aio.Channel) -> None:
        request = rpc.RangeRequest(key=own)
        request.MergeFromString(b"\xf8\x07\x01")
        await KVStub(channel).Range(request)

    await attacked(gateway, attack)
