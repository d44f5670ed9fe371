"""The audit trail of a gateway: writes, reads of secrets, refusals and reports; rights of readers; followers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from devopsellence.access.rights import Rights, record_of
from devopsellence.access.roles import Role
from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.api.v1.audit_pb2 import AuditEntry, AuditReport, AuditRequest
from devopsellence.api.v1.audit_pb2_grpc import AuditStub
from devopsellence.store.codec import encode
from devopsellence.store.errors import PermissionDenied, Rejected
from devopsellence.store.etcd import Compare, Delete, Etcd, Put
from devopsellence.store.settings import Settings
from tests.integration.gateway.key_classes import OTHER, OWN, fields
from tests.support.gateway import RunningGateway, open_channel
from tests.support.until import eventually

pytestmark = pytest.mark.etcd

REPORTED = "0123456789abcdef"


def release(number: int, author: str) -> bytes:
    return encode(pb.Release(number=number, created_by=author, **fields(OWN)))


async def deploy(settings: Settings, number: int, author: str) -> None:
    """Write a release as the command line does."""
    async with Etcd(settings) as etcd:
        key = etcd.keys.release(OWN, number)
        environment = pb.Environment(latest_release=number, **fields(OWN))
        puts = [Put(key, release(number, author)), Put(etcd.keys.environment(OWN), encode(environment))]
        await etcd.txn([Compare.absent(key)], puts)


async def read(settings: Settings, **asked: Any) -> list[AuditEntry]:
    """Return the entries that a caller gets, by time."""
    async with open_channel(settings) as channel:
        answers = [answer async for answer in AuditStub(channel).Read(AuditRequest(**asked))]
    return sorted((entry for answer in answers for entry in answer.entries), key=lambda each: each.at.ToNanoseconds())


async def becomes(settings: Settings, count: int, **asked: Any) -> list[AuditEntry]:
    """Return the entries once there are ``count``: they reach the disk a moment after the call."""
    ask: Callable[[], Awaitable[list[AuditEntry]]] = lambda: read(settings, **asked)  # noqa: E731
    return await eventually(f"{count} entries", ask, lambda found: len(found) == count)


async def report(settings: Settings, *entries: AuditEntry) -> None:
    async with Etcd(settings) as etcd:
        await etcd.report_audit(entries)


async def test_writes_and_refusals_are_told_with_their_caller(audited: RunningGateway, tmp_path: Path) -> None:
    await audited.grant("ann", str(OWN), roles=[Role.DEPLOYER])
    await audited.grant("eve", str(OTHER), roles=[Role.VIEWER])
    await audited.register("n1")
    ann, eve, root = audited.operator("ann"), audited.operator("eve"), audited.root()
    await deploy(ann, 1, "ann@laptop")
    with pytest.raises(PermissionDenied):
        await deploy(eve, 2, "eve@laptop")
    # Somebody else's name is no way to deploy.
    with pytest.raises(PermissionDenied, match="written by 'bob@laptop'"):
        await deploy(ann, 2, "bob@laptop")
    async with Etcd(root) as etcd:
        await etcd.txn([], [Delete(etcd.keys.node("n1"))])
    entries = await becomes(root, 4)
    assert [(entry.caller, entry.outcome, entry.summary) for entry in entries] == [
        ("operator:ann", AuditEntry.ALLOWED, f"deploy release 1 of {OWN}"),
        ("operator:eve", AuditEntry.REFUSED, f"deploy release 2 of {OWN}"),
        ("operator:ann", AuditEntry.REFUSED, f"deploy release 2 of {OWN}"),
        ("root", AuditEntry.ALLOWED, "delete node n1"),
    ]
    assert {entry.peer.partition(":")[0] for entry in entries} == {"127.0.0.1"}
    assert all(entry.serial for entry in entries)
    assert len({entry.serial for entry in entries[:3]}) == 2
    assert "operator:eve may not" in entries[1].reason
    assert list(entries[0].environments) == [str(OWN)]
    assert list(entries[3].nodes) == ["n1"]
    # A line of JSON each, for other programs, and no value.
    (file,) = (tmp_path / "audit").glob("gateway-*")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["summary"] for line in lines] == [entry.summary for entry in entries]
    assert "latest_release" not in file.read_text()


async def test_nodes_have_refusals_alone(audited: RunningGateway) -> None:
    await audited.register("n1")
    async with Etcd(audited.node("n1")) as etcd:
        lease = await etcd.grant_lease(60)
        await etcd.put(etcd.keys.heartbeat("n1"), encode(pb.Heartbeat(node="n1", uid="uid-n1")), lease=lease)
        with pytest.raises(PermissionDenied):
            await etcd.get(etcd.keys.node("n2"))
    (entry,) = await becomes(audited.root(), 1)
    assert (entry.caller, entry.caller_node, entry.summary) == ("node:uid-n1", "n1", "read nodes/n2")
    assert (await read(audited.root(), node="n1"), await read(audited.root(), node="n2")) == ([entry], [entry])
    assert await read(audited.root(), node="n3") == []


async def test_reads_of_secrets_are_told_once_for_a_while(audited: RunningGateway) -> None:
    await audited.grant("ann", str(OWN), roles=[Role.DEPLOYER])
    await audited.grant("vic", str(OWN), roles=[Role.VIEWER])
    for name in ("ann", "vic"):
        async with Etcd(audited.operator(name)) as etcd:
            for secret in ("A", "B", "C"):
                if name == "ann":
                    await etcd.get(etcd.keys.secret(OWN, "web", secret))
            # Plain reads are not told, nor what is left out for lack of rights.
            await etcd.list(etcd.keys.nodes_prefix)
            await etcd.list(etcd.keys.prefix)
    entries = await becomes(audited.root(), 2)
    assert [(entry.caller, entry.summary) for entry in entries] == [
        ("operator:ann", f"read secrets/{OWN}/web/A"),
        ("operator:ann", "read secrets/*"),
    ]


async def test_granting_and_denying_are_told_in_words(audited: RunningGateway) -> None:
    await audited.grant("ann", "*", roles=[Role.ADMIN])
    async with Etcd(audited.operator("ann")) as etcd:
        access = record_of("bob", Rights(frozenset({(Role.VIEWER, "acme/*")})))
        await etcd.put(etcd.keys.operator_access("bob"), encode(access))
        denied = pb.DenyList(certificates=[pb.DeniedCertificate(name="operator:eve")])
        await etcd.put(etcd.keys.denied, encode(denied))
    entries = await becomes(audited.root(), 2)
    assert [entry.summary for entry in entries] == ["grant bob: viewer in acme/*", "deny operator:eve"]
    assert list(entries[0].environments) == ["acme/*"]


async def test_operators_read_what_their_roles_permit(audited: RunningGateway) -> None:
    for name, roles, environment in (
        ("ann", [Role.DEPLOYER], str(OWN)),
        ("abe", [Role.ADMIN], str(OWN)),
        ("amy", [Role.ADMIN], "*"),
    ):
        await audited.grant(name, environment, roles=roles)
    await audited.register("n1")
    await deploy(audited.operator("ann"), 1, "ann@laptop")
    async with Etcd(audited.root()) as etcd:
        await etcd.put(etcd.keys.node("n2"), encode(pb.Node(name="n2", uid="u2")))
    await becomes(audited.root(), 2)
    seen = {name: len(await read(audited.operator(name))) for name in ("ann", "abe", "amy")}
    assert seen == {"ann": 1, "abe": 1, "amy": 2}
    with pytest.raises(grpc.aio.AioRpcError, match="node:uid-n1 may not read the audit trail"):
        await read(audited.node("n1"))
    with pytest.raises(grpc.aio.AioRpcError, match="'nobody' has been granted no access"):
        await read(audited.operator("nobody"))


async def test_node_reports_about_itself_alone_and_twice_is_once(audited: RunningGateway) -> None:
    await audited.register("n1", "n2")
    said = AuditEntry(id=REPORTED, caller="operator:ann", call="Exec", reported_by="n2", environments=[str(OWN)])
    await report(audited.node("n1"), said)
    await report(audited.node("n1"), said)
    # On disk when the answer comes.
    entries = await read(audited.root())
    assert {(entry.id, entry.reported_by, entry.reporter_uid) for entry in entries} == {(REPORTED, "n1", "uid-n1")}
    assert await read(audited.root(), node="n2") == []
    for caller in (audited.root(), audited.operator("ann")):
        await audited.grant("ann", "*")
        with pytest.raises(PermissionDenied, match="only nodes report"):
            await report(caller, said)
    with pytest.raises(Rejected, match="without a valid id"):
        await report(audited.node("n1"), AuditEntry(id="x"))


async def test_follower_gets_new_entries_until_the_access_is_withdrawn(audited: RunningGateway) -> None:
    await audited.grant("ann", str(OWN), roles=[Role.DEPLOYER])
    await audited.grant("amy", "*", roles=[Role.ADMIN])
    await deploy(audited.operator("ann"), 1, "ann@laptop")
    await becomes(audited.root(), 1)
    async with open_channel(audited.operator("amy")) as channel:
        call = AuditStub(channel).Read(AuditRequest(follow=True))
        answers = aiter(call)

        async def next_entries() -> list[str]:
            while not (answer := await anext(answers)).entries:
                pass
            return [entry.summary for entry in answer.entries]

        assert await next_entries() == [f"deploy release 1 of {OWN}"]
        await deploy(audited.operator("ann"), 2, "ann@laptop")
        assert await next_entries() == [f"deploy release 2 of {OWN}"]
        await audited.deny(pb.DeniedCertificate(name="operator:amy", reason="left"))
        with pytest.raises(grpc.aio.AioRpcError, match="operator:amy is denied: left"):
            await next_entries()


async def test_readers_of_one_caller_are_limited(audited: RunningGateway) -> None:
    async with open_channel(audited.root()) as channel:
        calls = [AuditStub(channel).Read(AuditRequest(follow=True)) for _ in range(4)]
        for call in calls:
            await call.read()
        with pytest.raises(grpc.aio.AioRpcError, match="4 readers of the audit trail are the most"):
            await AuditStub(channel).Read(AuditRequest()).read()
        for call in calls:
            call.cancel()


async def test_gateway_without_a_trail_says_so(gateway: RunningGateway) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="start its controller with --audit-dir") as error:
        await read(gateway.root())
    assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_report_to_a_gateway_without_a_trail_waits_for_another(gateway: RunningGateway) -> None:
    await gateway.register("n1")
    async with open_channel(gateway.node("n1")) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await AuditStub(channel).Report(AuditReport(entries=[AuditEntry(id=REPORTED)]))
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_refusals_in_a_loop_are_counted(audited: RunningGateway) -> None:
    await audited.grant("eve", str(OWN), roles=[Role.VIEWER])
    async with Etcd(audited.operator("eve")) as etcd:

        async def attempt() -> None:
            with pytest.raises(PermissionDenied):
                await etcd.delete(etcd.keys.release(OWN, 1))

        for _ in range(10):
            await asyncio.gather(*(attempt() for _ in range(20)))
    found = await becomes(audited.root(), 50, refused=True)
    assert {entry.summary for entry in found} == {f"delete release 1 of {OWN}"}
