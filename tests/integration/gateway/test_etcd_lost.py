"""The gateway without etcd: callers learn whether a request may have happened, and everything comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.api.v1.audit_pb2 import AuditEntry
from devopsellence.controller.gateway import admission as admission_module
from devopsellence.controller.gateway.rules.caller import Role
from devopsellence.etcd.v3 import etcd_pb2 as rpc
from devopsellence.etcd.v3.etcd_pb2_grpc import KVStub
from devopsellence.store.codec import encode
from devopsellence.store.errors import Ambiguous, PermissionDenied, StoreError, Unavailable
from devopsellence.store.etcd import Etcd
from tests.integration.gateway.test_audit import becomes
from tests.support.authority import Authority
from tests.support.etcd import EtcdServer
from tests.support.gateway import RunningGateway, open_channel, running_gateway
from tests.support.need import need_etcd
from tests.support.until import eventually

pytestmark = pytest.mark.etcd


@pytest.fixture
def server(tmp_path: Path) -> EtcdServer:
    need_etcd()
    return EtcdServer(tmp_path / "etcd")


@pytest.fixture
async def own_gateway(server: EtcdServer, tmp_path: Path) -> AsyncIterator[RunningGateway]:
    """A gateway in front of an etcd of the test's own."""
    with server:
        async with running_gateway(server.settings(), Authority(tmp_path / "ca"), audit=tmp_path / "audit") as gateway:
            yield gateway
            # A paused etcd would hold up the end of the connections.
            if server.running:
                server.resume()


async def test_unanswered_write_is_ambiguous_and_a_read_is_not(server: EtcdServer, own_gateway: RunningGateway) -> None:
    key, value = own_gateway.direct.keys.node("n1"), encode(pb.Node(name="n1"))
    async with Etcd(own_gateway.root(), timeout=1) as etcd, asyncio.timeout(30):
        await etcd.put(key, value)
        server.pause()
        with pytest.raises(Ambiguous):
            await etcd.put(key, value)
        with pytest.raises(Unavailable):
            await etcd.get(key)
        server.resume()

        async def read() -> bool:
            try:
                return await etcd.get(key) is not None
            except StoreError:
                return False

        await eventually("the gateway answers again", read)


async def test_write_whose_caller_leaves_before_the_answer_is_in_the_audit_trail(
    server: EtcdServer, own_gateway: RunningGateway
) -> None:
    root, admission = own_gateway.root(), own_gateway.gateway._admission

    async def in_flight() -> int:
        return admission._table.of("root", Role.ROOT, 0.0).calls

    async with open_channel(root) as channel:
        server.pause()
        request = rpc.PutRequest(key=own_gateway.direct.keys.node("n1").encode(), value=encode(pb.Node(name="n1")))
        call = KVStub(channel).Put(request, timeout=30)
        await eventually("the gateway has the call", in_flight)
        call.cancel()
        (entry,) = await becomes(root, 1)
    server.resume()
    assert (entry.outcome, entry.summary) == (AuditEntry.FAILED, "write node n1")
    assert entry.reason.startswith("the caller has left; it may have happened")


async def test_callers_are_not_refused_while_etcd_is_away(server: EtcdServer, own_gateway: RunningGateway) -> None:
    await own_gateway.register("n1")
    key = own_gateway.direct.keys.node("n1")
    async with Etcd(own_gateway.node("n1"), timeout=1) as etcd, asyncio.timeout(60):
        assert await etcd.get(key)
        await asyncio.to_thread(server.kill)
        with pytest.raises(Unavailable):
            await etcd.get(key)
        status = own_gateway.direct.keys.heartbeat("n1")
        with pytest.raises(Unavailable):
            await etcd.put(status, encode(pb.Heartbeat(node="n1", uid="uid-n1")))
        await asyncio.to_thread(server.start)

        async def read() -> bool:
            try:
                return await etcd.get(key) is not None
            except Unavailable:
                return False

        await eventually("the gateway answers again", read)


async def test_uid_of_two_nodes_gives_no_access(own_gateway: RunningGateway) -> None:
    await own_gateway.register("n1")
    keys = own_gateway.direct.keys
    async with Etcd(own_gateway.node("n1")) as etcd, asyncio.timeout(30):
        assert await etcd.get(keys.node("n1"))

        async def is_denied() -> bool:
            try:
                await etcd.get(keys.node("n1"))
            except PermissionDenied:
                return True
            return False

        await own_gateway.direct.put(keys.node("n2"), encode(pb.Node(name="n2", uid="uid-n1")))
        await eventually("nobody has the uid", is_denied)
        await own_gateway.direct.delete(keys.node("n2"))
        await own_gateway.register("n1")
        assert await etcd.get(keys.node("n1"))
        # A record that cannot be read names no uid.
        await own_gateway.direct.put(keys.node("n1"), b"garbage")
        await eventually("nobody has the uid", is_denied)


async def test_calls_that_wait_for_others_are_not_written_after_their_callers_have_left(
    server: EtcdServer, own_gateway: RunningGateway
) -> None:
    keys, admission = own_gateway.direct.keys, own_gateway.gateway._admission

    async def in_flight() -> int:
        return admission._table.of("root", Role.ROOT, 0.0).calls

    async with open_channel(own_gateway.root()) as channel:
        server.pause()
        puts = [
            rpc.PutRequest(key=keys.node(f"n{number}").encode(), value=encode(pb.Node(name=f"n{number}")))
            for number in range(admission_module.WORKED_ON + 20)
        ]
        calls = [KVStub(channel).Put(put, timeout=30) for put in puts]
        await eventually("the gateway has the calls", in_flight, lambda count: count == len(calls))
        for call in calls:
            call.cancel()
        entries = await becomes(own_gateway.root(), admission_module.WORKED_ON)
        assert {entry.outcome for entry in entries} == {AuditEntry.FAILED}
        server.resume()
    async with Etcd(own_gateway.root()) as etcd:

        async def works() -> bool:
            try:
                return bool(await etcd.put(keys.node("last"), encode(pb.Node(name="last"))))
            except StoreError:
                return False

        await eventually("the gateway answers again", works)
        stored = await etcd.list(keys.nodes_prefix, keys_only=True)
        assert len(stored.items) <= admission_module.WORKED_ON + 1
