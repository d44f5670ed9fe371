"""Every identity by every method by every class of keys, against the real server and a real etcd.

The expectations are written down here by hand, as sets of key classes, and not derived from the gateway's grants.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Set

import grpc
import grpc.aio
import pytest

from devopsellence.controller.gateway.upstream import NOT_PROCESSED
from devopsellence.etcd.v3 import etcd_pb2 as rpc
from devopsellence.etcd.v3.etcd_pb2_grpc import KVStub, LeaseStub, MaintenanceStub, WatchStub
from tests.integration.gateway.key_classes import OWN, ROLES, records
from tests.support.authority import Authority
from tests.support.gateway import RunningGateway, open_channel
from tests.support.until import eventually

pytestmark = pytest.mark.etcd

EVERYTHING = frozenset(
    """node n1|node n2|heartbeat n1|heartbeat n2|assignment n1 own|assignment n1 other|assignment n2 own
    |assignment n2 other|ingress n1 own|ingress n1 other|ingress n2 own|ingress n2 other|status n1 own|status n1 other
    |status n2 own|status n2 other|environment own|environment other|release own|release other|rollout own|rollout other
    |secret own|secret other|certificate own|certificate other|event own|event other|recipient|access ann|access viewer
    |access deployer|access exec|access admin|access admins|denied|issued|used|gateways|authorities|election
    |claim|unknown kind""".replace("\n    ", "").split("|")
)
OF_ENVIRONMENTS = frozenset(
    f"{kind} {name}"
    for kind in ("environment", "release", "secret", "certificate", "event")
    for name in ("own", "other")
)
SHARED = frozenset(
    {"node n1", "node n2", "heartbeat n1", "heartbeat n2", "recipient", "gateways", "authorities", "election", "claim"}
)
ACCESS = frozenset(name for name in EVERYTHING if name.startswith("access ")) | {"denied"}
NODE_READS = ACCESS | frozenset(
    """node n1|heartbeat n1|assignment n1 own|assignment n1 other|ingress n1 own|ingress n1 other|status n1 own
    |status n1 other|gateways|authorities""".replace("\n    ", "").split("|")
)
RELEASES = frozenset({"release own", "release other"})
EVENTS = frozenset({"event own", "event other"})
NOTHING: frozenset[str] = frozenset()


def own(*kinds: str) -> frozenset[str]:
    return frozenset(f"{kind} own" for kind in kinds)


VIEW_OWN = SHARED | own("environment", "release", "rollout", "certificate", "event", "status n1", "status n2")
SECRETS_OWN = own("secret", "assignment n1", "assignment n2", "ingress n1", "ingress n2")
DEPLOY_OWN = own("environment", "release", "event", "secret", "certificate")
NODES = frozenset({"node n1", "node n2"})
HEARTBEATS = frozenset({"heartbeat n1", "heartbeat n2"})

#: Identity: classes read, written, deleted. A key that exists is written: releases and events are written once, and
#: records of access without a change.
EXPECTED = {
    "node:uid-n1": (NODE_READS, frozenset({"heartbeat n1", "status n1 own", "status n1 other"}), NOTHING),
    "node:uid-n2": (
        frozenset(name.replace("n1", "n2") for name in NODE_READS),
        frozenset({"heartbeat n2", "status n2 own", "status n2 other"}),
        NOTHING,
    ),
    "node:uid-revoked": (NOTHING, NOTHING, NOTHING),
    "node:n1": (NOTHING, NOTHING, NOTHING),
    # Of a registered node: its certificate is for routers alone.
    "router:uid-n1": (NOTHING, NOTHING, NOTHING),
    "operator:ann": (
        VIEW_OWN | SECRETS_OWN | ACCESS,
        DEPLOY_OWN - RELEASES - EVENTS | {"recipient"},
        DEPLOY_OWN | {"rollout own"},
    ),
    "operator:viewer": (VIEW_OWN | {"access viewer"}, NOTHING, NOTHING),
    "operator:exec": (VIEW_OWN | {"access exec"}, NOTHING, NOTHING),
    "operator:deployer": (
        VIEW_OWN | SECRETS_OWN | ACCESS,
        DEPLOY_OWN - RELEASES - EVENTS | {"recipient"},
        DEPLOY_OWN | {"rollout own"},
    ),
    "operator:admin": (VIEW_OWN | SECRETS_OWN | ACCESS | {"issued"}, ACCESS - {"denied"}, NOTHING),
    "operator:admins": (
        EVERYTHING - {"unknown kind", "used"},
        # The record of a recipient without a change, as with an approval.
        ACCESS | NODES | {"environment own", "environment other", "recipient"},
        ACCESS - {"denied"} | NODES | HEARTBEATS | {"recipient"},
    ),
    "operator:eve": (NOTHING, NOTHING, NOTHING),
    "root": (
        EVERYTHING,
        (OF_ENVIRONMENTS | ACCESS | NODES | {"recipient", "gateways", "authorities"}) - RELEASES - EVENTS,
        EVERYTHING,
    ),
    "controller": (EVERYTHING, EVERYTHING, EVERYTHING),
    "etcd": (NOTHING, NOTHING, NOTHING),
    "join:uid-n1": (NOTHING, NOTHING, NOTHING),
    "operator:": (NOTHING, NOTHING, NOTHING),
    "somebody": (NOTHING, NOTHING, NOTHING),
}
REFUSALS = (
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNIMPLEMENTED,
)
#: The client wrote into a stream that the server had just refused, and lost the status; or the gateway has processed
#: nothing, because etcd did not answer in time, or does not know its callers at the moment. Clients try again.
PASSING = ("Internal error from Core", NOT_PROCESSED)
#: Operators' reads are filtered: a key that they may not read looks as if it did not exist.
FILTERED = {"root"} | {f"operator:{name}" for name in ("ann", "viewer", "exec", "deployer", "admin", "admins")}


class Calls:
    """Raw requests of one caller."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.kv = KVStub(channel)
        self.watch = WatchStub(channel)
        self.lease = LeaseStub(channel)
        self.status = MaintenanceStub(channel)
        self.own_lease = 0

    async def take_lease(self, _key: bytes, _value: bytes) -> bool:
        self.own_lease = (await self.lease.LeaseGrant(rpc.LeaseGrantRequest(TTL=60))).ID
        return True

    async def read(self, key: bytes, _value: bytes) -> bool:
        return bool((await self.kv.Range(rpc.RangeRequest(key=key))).kvs)

    async def read_in_txn(self, key: bytes, _value: bytes) -> bool:
        read = rpc.RequestOp(request_range=rpc.RangeRequest(key=key))
        return bool((await self.kv.Txn(rpc.TxnRequest(success=[read]))).responses[0].response_range.kvs)

    async def compare(self, key: bytes, _value: bytes) -> bool:
        compare = rpc.Compare(key=key, target=rpc.Compare.CREATE, result=rpc.Compare.NOT_EQUAL, create_revision=0)
        return (await self.kv.Txn(rpc.TxnRequest(compare=[compare]))).succeeded

    async def watched(self, key: bytes, _value: bytes) -> bool:
        async def requests() -> AsyncIterator[rpc.WatchRequest]:
            yield rpc.WatchRequest(create_request=rpc.WatchCreateRequest(key=key, start_revision=1))

        stream = self.watch.Watch(requests())
        try:
            async for answer in stream:
                if answer.canceled and not answer.compact_revision:
                    raise PermissionError(answer.cancel_reason)
                return True
        finally:
            stream.cancel()
        return False

    async def put(self, key: bytes, value: bytes) -> bool:
        await self.kv.Put(rpc.PutRequest(key=key, value=value, lease=self._lease_for(key)))
        return True

    async def put_in_txn(self, key: bytes, value: bytes) -> bool:
        put = rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=value, lease=self._lease_for(key)))
        await self.kv.Txn(rpc.TxnRequest(success=[put]))
        return True

    async def put_in_failure_branch(self, key: bytes, value: bytes) -> bool:
        """Attack: the branch that a release's own condition leads to when the release exists."""
        absent = rpc.Compare(key=key, target=rpc.Compare.CREATE, create_revision=0)
        put = rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=value, lease=self._lease_for(key)))
        await self.kv.Txn(rpc.TxnRequest(compare=[absent], failure=[put]))
        return True

    async def put_with_foreign_lease(self, key: bytes, value: bytes) -> bool:
        await self.kv.Put(rpc.PutRequest(key=key, value=value, lease=4242))
        return True

    async def put_garbage(self, key: bytes, _value: bytes) -> bool:
        await self.kv.Put(rpc.PutRequest(key=key, value=b"no record", lease=self._lease_for(key)))
        return True

    async def nested(self, key: bytes, value: bytes) -> bool:
        """Attack: a transaction within a transaction, which etcd's own roles did not look into."""
        inner = rpc.TxnRequest(success=[rpc.RequestOp(request_range=rpc.RangeRequest(key=key))])
        await self.kv.Txn(rpc.TxnRequest(success=[rpc.RequestOp(request_txn=inner)]))
        return True

    async def delete(self, key: bytes, _value: bytes) -> bool:
        return bool((await self.kv.DeleteRange(rpc.DeleteRangeRequest(key=key))).deleted)

    async def delete_in_txn(self, key: bytes, _value: bytes) -> bool:
        delete = rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key))
        return bool((await self.kv.Txn(rpc.TxnRequest(success=[delete]))).responses[0].response_delete_range.deleted)

    def _lease_for(self, key: bytes) -> int:
        return self.own_lease if b"/heartbeats/" in key or b"/events/" in key else 0


async def outcome(call: Callable[[bytes, bytes], Awaitable[bool]], key: bytes, value: bytes) -> str:
    """Return ``done``, ``nothing`` (no such key for the caller) or ``refused``."""

    async def attempt() -> str:
        try:
            return "done" if await call(key, value) else "nothing"
        except PermissionError:
            return "refused"
        except grpc.aio.AioRpcError as error:
            if error.code() in REFUSALS:
                return "refused"
            if any(text in (error.details() or "") for text in PASSING):
                return ""
            raise

    return await eventually("an answer of the gateway", attempt)


async def prepare(gateway: RunningGateway, author: str) -> dict[str, tuple[bytes, bytes]]:
    # A deny-list that cannot be read admits nobody.
    await gateway.deny()
    for name, (role, where) in ROLES.items():
        await gateway.grant(name, where, roles=[role])
    await gateway.grant("ann", str(OWN))
    await gateway.register("n1", "n2")
    known = {name: (key, value) for name, (key, value) in records(gateway.direct.keys, author).items()}
    for key, value in known.values():
        await gateway.direct.put(key, value)
    return {name: (key.encode(), value) for name, (key, value) in known.items()}


@pytest.mark.parametrize("identity", EXPECTED)
async def test_identity_reaches_only_its_keys(gateway: RunningGateway, identity: str) -> None:
    classes = await prepare(gateway, identity.removeprefix("operator:"))
    reads, writes, deletes = EXPECTED[identity]
    hidden = "nothing" if identity in FILTERED else "refused"
    async with open_channel(gateway.settings(identity)) as channel:
        has_access = bool(reads)
        calls = Calls(channel)
        if has_access:
            assert await outcome(calls.take_lease, b"", b"") == "done"

        async def check(method: Callable[[bytes, bytes], Awaitable[bool]], expected: dict[str, str]) -> None:
            found = {name: await outcome(method, key, value) for name, (key, value) in classes.items()}
            assert found == expected, method.__name__

        def table(allowed: Set[str], otherwise: str = "refused") -> dict[str, str]:
            return {name: "done" if name in allowed else otherwise for name in classes}

        await check(calls.read, {**table(reads, hidden), "elsewhere": "refused"})
        await check(calls.read_in_txn, table(reads))
        await check(calls.compare, table(reads))
        watched = table(reads, "done" if identity in FILTERED else "refused")
        await check(calls.watched, {**watched, "elsewhere": "refused"})
        await check(calls.nested, table(NOTHING))
        await check(calls.put_garbage, table(EVERYTHING if identity == "controller" else NOTHING))
        if identity == "controller":
            await prepare(gateway, "controller")
        else:
            await check(calls.put_with_foreign_lease, table(NOTHING))
        await check(calls.put, table(writes))
        await check(calls.put_in_txn, table(writes))
        await check(calls.put_in_failure_branch, table(writes))
        await check(calls.delete_in_txn, table(deletes))
        for key, value in classes.values():
            await gateway.direct.put(key.decode(), value)
        await check(calls.delete, table(deletes))


@pytest.mark.parametrize("identity", EXPECTED)
async def test_leases_of_others_are_out_of_reach(gateway: RunningGateway, identity: str) -> None:
    await prepare(gateway, "")
    foreign = await gateway.direct.grant_lease(60)
    has_access = bool(EXPECTED[identity][0])
    async with open_channel(gateway.settings(identity)) as channel:
        lease = LeaseStub(channel)
        for lease_id in (foreign, 1, 2**62, -5):

            async def revoke(_key: bytes, _value: bytes, lease_id: int = lease_id) -> bool:
                await lease.LeaseRevoke(rpc.LeaseRevokeRequest(ID=lease_id))
                return True

            async def look(_key: bytes, _value: bytes, lease_id: int = lease_id) -> bool:
                await lease.LeaseTimeToLive(rpc.LeaseTimeToLiveRequest(ID=lease_id, keys=True))
                return True

            async def keep(_key: bytes, _value: bytes, lease_id: int = lease_id) -> bool:
                async def requests() -> AsyncIterator[rpc.LeaseKeepAliveRequest]:
                    yield rpc.LeaseKeepAliveRequest(ID=lease_id)

                async for _ in lease.LeaseKeepAlive(requests()):
                    return True
                return False

            if identity != "controller":
                assert [await outcome(call, b"", b"") for call in (look, keep, revoke)] == ["refused"] * 3

        async def grant(_key: bytes, _value: bytes) -> bool:
            granted = await lease.LeaseGrant(rpc.LeaseGrantRequest(TTL=60))
            await lease.LeaseTimeToLive(rpc.LeaseTimeToLiveRequest(ID=granted.ID, keys=True))
            await lease.LeaseRevoke(rpc.LeaseRevokeRequest(ID=granted.ID))
            return True

        async def grant_chosen(_key: bytes, _value: bytes) -> bool:
            await lease.LeaseGrant(rpc.LeaseGrantRequest(TTL=60, ID=4242))
            return True

        assert await outcome(grant, b"", b"") == ("done" if has_access else "refused")
        assert await outcome(grant_chosen, b"", b"") == "refused"


#: Methods of etcd that the gateway does not have, with what they would give away or break.
MISSING = (
    *(f"KV/{method}" for method in ("Compact",)),
    *(f"Lease/{method}" for method in ("LeaseLeases", "LeaseCheckpoint")),
    *(f"Cluster/{method}" for method in ("MemberAdd", "MemberRemove", "MemberUpdate", "MemberList", "MemberPromote")),
    *(f"Maintenance/{method}" for method in ("Alarm", "Defragment", "Hash", "HashKV", "Snapshot", "MoveLeader")),
    *(
        f"Auth/{method}"
        for method in (
            *("AuthEnable", "AuthDisable", "Authenticate", "UserAdd", "UserGet", "UserList", "UserDelete"),
            *("UserChangePassword", "UserGrantRole", "UserRevokeRole", "RoleAdd", "RoleGet", "RoleList"),
            *("RoleDelete", "RoleGrantPermission", "RoleRevokePermission"),
        )
    ),
)


@pytest.mark.parametrize("identity", EXPECTED)
async def test_other_methods_do_not_exist(gateway: RunningGateway, identity: str) -> None:
    await prepare(gateway, "")
    async with open_channel(gateway.settings(identity)) as channel:
        for method in MISSING:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(f"/etcdserverpb.{method}")(b"")  # type: ignore[arg-type]
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED, method


async def test_certificates_of_another_authority_are_refused_in_the_handshake(
    gateway: RunningGateway, tmp_path_factory: pytest.TempPathFactory
) -> None:
    stranger = Authority(tmp_path_factory.mktemp("stranger"))
    for identity in EXPECTED:
        async with open_channel(gateway.settings(identity, authority=stranger)) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await MaintenanceStub(channel).Status(rpc.StatusRequest())
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
