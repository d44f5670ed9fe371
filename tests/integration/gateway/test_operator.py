"""Operators at the gateway: filtered reads and watches, releases that are written once, authors, leases, etcdctl."""

from __future__ import annotations

import asyncio
import os
import subprocess
from contextlib import AsyncExitStack, aclosing
from functools import partial

import pytest

from devopsellence.access.certificate import serial_number
from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.etcd.v3 import etcd_pb2 as rpc
from devopsellence.etcd.v3.etcd_pb2_grpc import KVStub, LeaseStub
from devopsellence.store.codec import encode
from devopsellence.store.errors import PermissionDenied, Rejected, Unavailable
from devopsellence.store.etcd import Compare, Delete, Etcd, Put, WatchEvent
from tests.integration.gateway.key_classes import OTHER, OWN, fields
from tests.support.authority import Authority
from tests.support.etcd import EtcdServer
from tests.support.gateway import RunningGateway, open_channel, running_gateway
from tests.support.until import eventually

pytestmark = pytest.mark.etcd


def release(number: int, author: str = "ann@laptop") -> bytes:
    return encode(pb.Release(number=number, created_by=author, **fields(OWN)))


async def test_listing_counts_and_pages_only_readable_keys(gateway: RunningGateway) -> None:
    await gateway.grant("ann", str(OWN))
    keys = gateway.direct.keys
    for number in range(1, 8):
        for ref in (OWN, OTHER):
            await gateway.direct.put(keys.release(ref, number), f"{ref} {number}".encode())
    start, end = keys.all_releases_prefix.encode(), keys.all_releases_prefix[:-1].encode() + b"0"
    async with open_channel(gateway.operator("ann")) as channel:
        kv = KVStub(channel)
        found: list[bytes] = []
        request = rpc.RangeRequest(key=start, range_end=end, limit=3)
        sizes = []
        while True:
            page = await kv.Range(request)
            found += [kv.value for kv in page.kvs]
            sizes.append((len(page.kvs), page.count, page.more))
            if not page.more:
                break
            request.key, request.revision = page.kvs[-1].key + b"\0", page.header.revision
        assert found == [f"{OWN} {number}".encode() for number in range(1, 8)]
        assert sizes == [(3, 7, True), (3, 4, True), (1, 1, False)]
        counted = await kv.Range(rpc.RangeRequest(key=start, range_end=end, count_only=True))
        assert (counted.count, len(counted.kvs)) == (7, 0)
        newest = await kv.Range(
            rpc.RangeRequest(
                key=start,
                range_end=end,
                limit=1,
                sort_order=rpc.RangeRequest.DESCEND,
                sort_target=rpc.RangeRequest.KEY,
            )
        )
        assert [kv.value for kv in newest.kvs] == [f"{OWN} 7".encode()]
        assert (newest.more, newest.count) == (True, 7)
        everything = await kv.Range(rpc.RangeRequest(key=b"\0", range_end=b"\0", keys_only=True))
        assert everything.count == 7 + 1  # and the operator's own access


async def test_watch_shows_only_readable_keys(gateway: RunningGateway) -> None:
    await gateway.grant("ann", str(OWN))
    keys = gateway.direct.keys
    start = await gateway.direct.put(keys.secret(OTHER, "web", "KEY"), b"before")
    async with Etcd(gateway.operator("ann")) as etcd, AsyncExitStack() as stack, asyncio.timeout(10):
        batches = etcd.watch(keys.all_secrets_prefix, start_revision=start)
        await stack.enter_async_context(aclosing(batches))
        await anext(batches)
        other, own = keys.secret(OTHER, "web", "KEY"), keys.secret(OWN, "web", "KEY")
        await gateway.direct.txn([], [Put(other, b"x"), Put(own, b"y")])
        await gateway.direct.delete(other)
        gone = await gateway.direct.delete(own)
        events: list[WatchEvent] = []
        while not events or events[-1].mod_revision != gone:
            events += (await anext(batches)).events
        assert [(event.key, event.kv is None) for event in events] == [(own, False), (own, True)]


async def test_release_is_written_once_by_its_author(gateway: RunningGateway) -> None:
    await gateway.grant("ann", str(OWN))
    keys = gateway.direct.keys
    key = keys.release(OWN, 1)
    async with Etcd(gateway.operator("ann")) as etcd:
        with pytest.raises(PermissionDenied):
            await etcd.put(key, release(1))
        with pytest.raises(PermissionDenied):
            await etcd.txn([Compare.absent(keys.release(OWN, 2))], [Put(key, release(1))])
        with pytest.raises(PermissionDenied):
            await etcd.txn([Compare.absent(key)], [Put(key, release(1, "ben@laptop"))])
        with pytest.raises(PermissionDenied):
            await etcd.txn([Compare.absent(key)], [Put(key, release(2))])
        assert (await etcd.txn([Compare.absent(key)], [Put(key, release(1))])).succeeded
        assert not (await etcd.txn([Compare.absent(key)], [Put(key, release(1, "ann"))])).succeeded
        with pytest.raises(PermissionDenied):
            await etcd.txn([Compare.exists(key)], [Delete(key), Put(key, release(1))])
    assert (stored := await gateway.direct.get(key)) is not None
    assert stored.version == 1


async def test_versions_of_others_are_kept_and_not_forged(gateway: RunningGateway) -> None:
    await gateway.grant("ann", str(OWN))
    key = gateway.direct.keys.secret(OWN, "web", "KEY")

    def secret(*authors: str) -> bytes:
        versions = [pb.SecretVersion(version=number, set_by=author) for number, author in enumerate(authors, 1)]
        return encode(pb.Secret(service="web", name="KEY", versions=versions, **fields(OWN)))

    await gateway.direct.put(key, secret("ben@desk"))
    async with Etcd(gateway.operator("ann")) as etcd:
        await etcd.put(key, secret("ben@desk", "ann@laptop"))
        with pytest.raises(PermissionDenied):
            await etcd.put(key, secret("ben@desk", "ann@laptop", "ben@desk"))
        with pytest.raises(PermissionDenied):
            await etcd.put(key, secret("ben@desk", "ben@desk"))
        with pytest.raises(Rejected):
            await etcd.put(key, b"[]")


async def test_environment_is_deleted_by_prefix_and_no_other(gateway: RunningGateway) -> None:
    await gateway.grant("ann", str(OWN))
    keys = gateway.direct.keys
    for ref in (OWN, OTHER):
        await gateway.direct.put(keys.environment(ref), b"{}")
        await gateway.direct.put(keys.secret(ref, "web", "KEY"), b"{}")
    async with Etcd(gateway.operator("ann")) as etcd:
        for prefix in (keys.all_secrets_prefix, keys.secrets_prefix(OTHER)):
            with pytest.raises(PermissionDenied):
                await etcd.txn([], [Delete(prefix)])
        await etcd.txn([], [Delete(keys.secrets_prefix(OWN)), Delete(keys.environment(OWN))])
    left = [item.key for item in (await gateway.direct.list(keys.prefix)).items]
    assert left == [keys.operator_access("ann"), keys.environment(OTHER), keys.secret(OTHER, "web", "KEY")]


async def test_withdrawn_access_ends_watches_and_calls(gateway: RunningGateway) -> None:
    await gateway.grant("ann", str(OWN))
    keys = gateway.direct.keys
    async with Etcd(gateway.operator("ann")) as etcd, asyncio.timeout(10):
        batches = etcd.watch(keys.secrets_prefix(OWN), start_revision=0)
        await anext(batches)
        await gateway.direct.delete(keys.operator_access("ann"))
        with pytest.raises(PermissionDenied):
            await anext(batches)
        with pytest.raises(PermissionDenied):
            await etcd.list(keys.secrets_prefix(OWN))


@pytest.mark.parametrize("by", ["name", "serial"])
async def test_denied_certificate_ends_watches_and_calls(gateway: RunningGateway, by: str) -> None:
    await gateway.grant("ann", str(OWN))
    keys = gateway.direct.keys
    denied, other = gateway.operator("ann"), gateway.operator("ann")
    assert denied.cert is not None
    serial = serial_number(denied.cert.read_bytes())
    entry = pb.DeniedCertificate(name="operator:ann") if by == "name" else pb.DeniedCertificate(serial=serial)
    async with Etcd(denied) as etcd, Etcd(other) as renewed, asyncio.timeout(10):
        watches = [client.watch(keys.secrets_prefix(OWN), start_revision=0) for client in (etcd, renewed)]
        for batches in watches:
            await anext(batches)
        await gateway.deny(entry)
        with pytest.raises(PermissionDenied, match="is denied"):
            await anext(watches[0])
        with pytest.raises(PermissionDenied, match="is denied"):
            await etcd.list(keys.secrets_prefix(OWN))
        if by == "serial":
            revision = await gateway.direct.put(keys.secret(OWN, "web", "KEY"), b"{}")
            assert [event.mod_revision for event in (await anext(watches[1])).events] == [revision]
        await gateway.deny()
        await eventually("the certificate is accepted again", partial(_lists, etcd, keys.secrets_prefix(OWN)))


async def _lists(etcd: Etcd, prefix: str) -> bool:
    try:
        await etcd.list(prefix)
    except PermissionDenied:
        return False
    return True


async def test_damaged_deny_list_admits_nobody_but_root(gateway: RunningGateway) -> None:
    await gateway.grant("ann", str(OWN))
    keys = gateway.direct.keys
    await gateway.direct.put(keys.denied, b"garbage")
    async with Etcd(gateway.operator("ann"), timeout=1) as etcd, Etcd(gateway.root()) as root, asyncio.timeout(10):
        with pytest.raises(Unavailable, match="does not know its callers"):
            await etcd.list(keys.secrets_prefix(OWN))
        await root.txn([], [Delete(keys.denied)])
        await eventually("ann is admitted again", partial(_lists, etcd, keys.secrets_prefix(OWN)))


async def test_lease_belongs_to_its_owner_through_another_gateway(
    gateway: RunningGateway, etcd_server: EtcdServer, authority: Authority
) -> None:
    await gateway.grant("ann", str(OWN))
    await gateway.register("n1")
    keys = gateway.direct.keys
    event = encode(pb.Event(source="cli"))
    async with running_gateway(etcd_server.settings(keys.prefix), authority) as second:
        async with Etcd(gateway.operator("ann")) as etcd:
            lease = await etcd.grant_lease(60)
            await etcd.put(keys.event(OWN, "e1"), event, lease=lease)
        async with open_channel(second.node("n1")) as channel:
            for call in (
                LeaseStub(channel).LeaseRevoke(rpc.LeaseRevokeRequest(ID=lease)),
                LeaseStub(channel).LeaseTimeToLive(rpc.LeaseTimeToLiveRequest(ID=lease, keys=True)),
            ):
                with pytest.raises(Exception, match="was not granted to node:uid-n1"):
                    await call
        async with open_channel(second.operator("ann")) as channel:
            shown = await LeaseStub(channel).LeaseTimeToLive(rpc.LeaseTimeToLiveRequest(ID=lease, keys=True))
            assert list(shown.keys) == [keys.event(OWN, "e1").encode()]
            # A key that its owner may not read, bound to the lease behind the gateway's back.
            await gateway.direct.put(keys.secret(OTHER, "web", "KEY"), b"{}", lease=lease)
            shown = await LeaseStub(channel).LeaseTimeToLive(rpc.LeaseTimeToLiveRequest(ID=lease, keys=True))
            assert list(shown.keys) == [keys.event(OWN, "e1").encode()]
            await LeaseStub(channel).LeaseRevoke(rpc.LeaseRevokeRequest(ID=lease))
        assert await gateway.direct.get(keys.event(OWN, "e1")) is None


async def test_etcdctl_reads_like_a_document(gateway: RunningGateway) -> None:
    await gateway.grant("ann", str(OWN))
    keys = gateway.direct.keys
    await gateway.direct.put(keys.environment(OWN), encode(pb.Environment(**fields(OWN))))
    await gateway.direct.put(keys.environment(OTHER), encode(pb.Environment(**fields(OTHER))))
    settings = gateway.operator("ann")

    def etcdctl(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["etcdctl", f"--endpoints=https://{gateway.address}", f"--cacert={settings.ca_cert}"]
        command += [f"--cert={settings.cert}", f"--key={settings.key}", *arguments]
        environ = {**os.environ, "ETCDCTL_API": "3"}
        return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=30, check=False)

    read = await asyncio.to_thread(etcdctl, "get", "--prefix", keys.prefix)
    assert read.returncode == 0, read.stderr
    lines = read.stdout.splitlines()
    assert lines[0::2] == [keys.operator_access("ann"), keys.environment(OWN)]
    assert lines[3] == encode(pb.Environment(**fields(OWN))).decode()
    written = await asyncio.to_thread(etcdctl, "put", keys.environment(OTHER), "{}")
    assert written.returncode != 0
    assert "permission denied" in written.stderr
    compacted = await asyncio.to_thread(etcdctl, "compact", "1")
    assert compacted.returncode != 0
