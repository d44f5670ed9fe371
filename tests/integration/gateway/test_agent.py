"""The store's client with a node's certificate: what an agent does works, and nothing else."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.store.codec import encode
from devopsellence.store.errors import PermissionDenied, Rejected
from devopsellence.store.etcd import Compare, Etcd, Put
from devopsellence.store.identities import USER_CONTROLLER
from devopsellence.store.keys import PEERS, EnvironmentRef
from devopsellence.store.lease import LeaseKeeper
from tests.support.authority import Authority
from tests.support.etcd import EtcdServer
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.need import need_etcd

pytestmark = pytest.mark.etcd

REF = EnvironmentRef("acme", "shop", "production")
ENV = {"organization": "acme", "project": "shop", "environment": "production"}


def status(node: str = "n1", **fields: object) -> bytes:
    return encode(pb.AssignmentStatus(**{"node": node, "node_uid": f"uid-{node}", **ENV, **fields}))  # type: ignore[arg-type]


def event(node: str = "n1", **fields: object) -> bytes:
    return encode(pb.Event(**{"node": node, "source": f"agent/{node}", "code": "x", **fields}))  # type: ignore[arg-type]


async def test_agent_reads_its_desired_state_and_writes_its_reports(gateway: RunningGateway) -> None:
    await gateway.register("n1", "n10")
    keys = gateway.direct.keys
    assignment = keys.assignment("n1", REF)
    await gateway.direct.put(assignment, b"{}")
    await gateway.direct.put(keys.assignment("n10", REF), b"{}")
    await gateway.direct.put(keys.ingress("n1", REF, PEERS), b"{}")
    async with Etcd(gateway.node("n1")) as etcd, LeaseKeeper(etcd) as keeper:
        assert await etcd.get(keys.node("n1"))
        assert [item.key for item in (await etcd.list(keys.assignments_prefix("n1"))).items] == [assignment]
        assert [item.key for item in (await etcd.list(keys.ingress_prefix("n1"))).items] == [
            keys.ingress("n1", REF, PEERS)
        ]
        lease = await keeper.grant(10)
        beat = encode(pb.Heartbeat(node="n1", uid="uid-n1"))
        written = await etcd.txn(
            [Compare.unmodified(keys.heartbeat("n1"), 0)], [Put(keys.heartbeat("n1"), beat, lease.id)]
        )
        assert written.succeeded
        await etcd.put(keys.status("n1", REF), status())
        await etcd.txn([Compare.exists(assignment)], [Put(keys.status("n1", REF), status(release=2))])
        day = await etcd.grant_lease(24 * 3600)
        await etcd.txn([], [Put(keys.event(REF, f"e{number}"), event(), day) for number in range(3)])
        assert len((await gateway.direct.list(keys.events_prefix(REF))).items) == 3
        await lease.revoke()
        assert await etcd.get(keys.heartbeat("n1")) is None


async def test_agent_watches_its_assignments_only(gateway: RunningGateway) -> None:
    await gateway.register("n1", "n10")
    keys = gateway.direct.keys
    async with Etcd(gateway.node("n1")) as etcd, asyncio.timeout(10):
        start = (await etcd.list(keys.assignments_prefix("n1"))).revision
        async with aclosing(etcd.watch(keys.assignments_prefix("n1"), start_revision=start + 1)) as batches:
            assert (await anext(batches)).events == ()
            await gateway.direct.put(keys.assignment("n10", REF), b"{}")
            revision = await gateway.direct.put(keys.assignment("n1", REF), b"{}")
            batch = await anext(batches)
            assert [(item.key, item.mod_revision) for item in batch.events] == [(keys.assignment("n1", REF), revision)]
        for prefix in (keys.all_assignments_prefix, keys.assignments_prefix("n10"), keys.prefix):
            with pytest.raises(PermissionDenied):
                await anext(etcd.watch(prefix, start_revision=0))


async def test_replaced_machine_loses_its_access_and_its_watches(gateway: RunningGateway) -> None:
    await gateway.register("n1")
    keys = gateway.direct.keys
    async with Etcd(gateway.node("n1")) as etcd, asyncio.timeout(10):
        batches = etcd.watch(keys.assignments_prefix("n1"), start_revision=0)
        await anext(batches)
        await gateway.direct.put(keys.node("n1"), encode(pb.Node(name="n1", uid="uid-other")))
        with pytest.raises(PermissionDenied):
            await anext(batches)
        with pytest.raises(PermissionDenied):
            await etcd.get(keys.node("n1"))


async def test_malformed_and_foreign_values_are_refused(gateway: RunningGateway) -> None:
    await gateway.register("n1", "n2")
    keys = gateway.direct.keys
    await gateway.direct.put(keys.assignment("n1", REF), b"{}")
    await gateway.direct.put(keys.event(REF, "taken"), event("n2"))
    async with Etcd(gateway.node("n1")) as etcd:
        lease = await etcd.grant_lease(60)
        for key, value, kind in (
            (keys.status("n1", REF), b"no record", Rejected),
            (keys.status("n1", REF), status(reason="x" * 1_000_000), Rejected),
            (keys.status("n1", REF), status("n2"), PermissionDenied),
            (keys.status("n1", REF), status(node_uid="uid-n2"), PermissionDenied),
            (keys.heartbeat("n1"), encode(pb.Heartbeat(node="n1", uid="uid-n2")), PermissionDenied),
            (keys.event(REF, "taken"), event(), PermissionDenied),
            (keys.event(REF, "new"), event("n2"), PermissionDenied),
            (keys.event(REF, "new"), event(source="cli"), PermissionDenied),
        ):
            with pytest.raises(kind):
                await etcd.put(key, value, lease=0 if "/status/" in key else lease)
        with pytest.raises(PermissionDenied):
            await etcd.put(keys.event(EnvironmentRef("acme", "shop", "other"), "new"), event(), lease=lease)
        with pytest.raises(PermissionDenied):
            await etcd.put(keys.heartbeat("n1"), encode(pb.Heartbeat(node="n1", uid="uid-n1")))
    assert (await gateway.direct.list(keys.all_statuses_prefix)).items == ()


async def test_gateway_stands_in_front_of_an_etcd_with_users(tmp_path: Path) -> None:
    """As in a cluster of an earlier version: the gateway has the controller's certificate and user."""
    need_etcd()
    authority = Authority(tmp_path / "ca")
    with EtcdServer(tmp_path / "etcd", authority=authority) as server:
        await asyncio.to_thread(server.enable_users)
        settings = server.settings(user=USER_CONTROLLER)
        async with running_gateway(settings, authority) as gateway:
            await gateway.register("n1")
            keys = gateway.direct.keys
            async with Etcd(gateway.node("n1")) as etcd, LeaseKeeper(etcd) as keeper, asyncio.timeout(20):
                lease = await keeper.grant(10)
                await etcd.put(keys.heartbeat("n1"), encode(pb.Heartbeat(node="n1", uid="uid-n1")), lease=lease.id)
                async with aclosing(etcd.watch(keys.assignments_prefix("n1"), start_revision=0)) as batches:
                    await anext(batches)
                    await gateway.direct.put(keys.assignment("n1", REF), b"{}")
                    assert [event.key for event in (await anext(batches)).events] == [keys.assignment("n1", REF)]
                await lease.revoke()
                assert await etcd.get(keys.heartbeat("n1")) is None
