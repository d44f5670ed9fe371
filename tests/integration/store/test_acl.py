"""Access control in a real etcd with client certificates; passwords with expiring tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from devopsellence.api.v1 import stored_pb2
from devopsellence.store import acl
from devopsellence.store.errors import PermissionDenied, Unauthenticated
from devopsellence.store.etcd import Compare, Etcd, Put
from devopsellence.store.informer import Informer
from devopsellence.store.keys import PEERS, EnvironmentRef
from devopsellence.store.lease import LeaseKeeper
from devopsellence.store.settings import Settings
from tests.support.authority import Authority
from tests.support.etcd import EtcdServer
from tests.support.need import need_etcd

pytestmark = pytest.mark.etcd

ENV = EnvironmentRef("acme", "shop", "production")
HOST = "app.example.com"


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """Start an etcd with access control (set up twice) and the nodes n1 and n10."""
    need_etcd()
    folder = tmp_path_factory.mktemp("secured")

    async def set_up(server: EtcdServer) -> None:
        async with Etcd(server.settings(user=acl.USER_OPERATOR)) as etcd:
            for _ in range(2):
                await acl.enable(etcd)
                for node in ("n1", "n10"):
                    await acl.grant_node(etcd, node, f"uid-{node}")
            for node in ("n1", "n10"):
                await etcd.put(etcd.keys.node(node), b"{}")
                await etcd.put(etcd.keys.assignment(node, ENV), b"{}")
                await etcd.put(etcd.keys.ingress(node, ENV, HOST), b"{}")
            await etcd.put(etcd.keys.certificate(ENV, HOST), b"{}")

    with EtcdServer(folder / "etcd", authority=Authority(folder / "ca")) as server:
        asyncio.run(set_up(server))
        yield server


async def test_node_accesses_its_own_keys(secured: EtcdServer) -> None:
    async with Etcd(secured.settings(user=acl.user_of_node("uid-n1"))) as etcd, LeaseKeeper(etcd) as keeper:
        keys = etcd.keys
        assert await etcd.get(keys.node("n1"))
        assert [item.key for item in (await etcd.list(keys.assignments_prefix("n1"))).items] == [
            keys.assignment("n1", ENV)
        ]
        assert [item.key for item in (await etcd.list(keys.ingress_prefix("n1"))).items] == [
            keys.ingress("n1", ENV, HOST)
        ]
        for prefix in (keys.assignments_prefix("n1"), keys.ingress_prefix("n1")):
            await etcd.head(prefix)
            async with aclosing(etcd.watch(prefix, start_revision=0)) as batches:
                await anext(batches)
        lease = await keeper.grant(5)
        await etcd.put(keys.heartbeat("n1"), b"{}", lease=lease.id)
        status = keys.status("n1", ENV)
        await etcd.txn([Compare.absent(status)], [Put(status, b"{}")])
        await etcd.delete(status)
        await etcd.put(keys.event(ENV, "e1"), b"{}")


async def test_node_cannot_access_other_keys(secured: EtcdServer) -> None:
    async with Etcd(secured.settings(user=acl.user_of_node("uid-n1"))) as etcd:
        keys = etcd.keys
        refused = [
            etcd.get(keys.node("n10")),
            etcd.put(keys.node("n1"), b"{}"),
            etcd.list(keys.nodes_prefix),
            etcd.list(keys.all_assignments_prefix),
            etcd.list(keys.assignments_prefix("n10")),
            etcd.put(keys.assignment("n1", ENV), b"{}"),
            etcd.delete(keys.assignment("n1", ENV)),
            etcd.list(keys.all_ingress_prefix),
            etcd.list(keys.ingress_prefix("n10")),
            etcd.get(keys.ingress("n10", ENV, PEERS)),
            etcd.put(keys.ingress("n1", ENV, HOST), b"{}"),
            anext(etcd.watch(keys.ingress_prefix("n10"), start_revision=0)),
            etcd.get(keys.certificate(ENV, HOST)),
            etcd.put(keys.certificate(ENV, HOST), b"{}"),
            etcd.get(keys.heartbeat("n10")),
            etcd.put(keys.heartbeat("n10"), b"{}"),
            etcd.list(keys.statuses_prefix("n10")),
            etcd.put(keys.status("n10", ENV), b"{}"),
            etcd.get(keys.event(ENV, "e1")),
            etcd.get(keys.environment(ENV)),
            etcd.list(keys.releases_prefix(ENV)),
            etcd.put(keys.candidate(1), b"{}"),
            etcd.put("/elsewhere", b"{}"),
            etcd.txn([Compare.exists(keys.node("n10"))], [Put(keys.heartbeat("n1"), b"{}")]),
            etcd.txn([], [Put(keys.heartbeat("n1"), b"{}"), Put(keys.heartbeat("n10"), b"{}")]),
            anext(etcd.watch(keys.assignments_prefix("n10"), start_revision=0)),
            acl.grant_node(etcd, "n1", "uid-n1"),
        ]
        for attempt in refused:
            with pytest.raises(PermissionDenied, match="permission denied"):
                await attempt


async def test_controller_access_is_limited_to_the_prefix(secured: EtcdServer) -> None:
    async with Etcd(secured.settings(user=acl.USER_CONTROLLER)) as etcd:
        assert len((await etcd.list(etcd.keys.nodes_prefix)).items) == 2
        await etcd.put(etcd.keys.candidate(1), b"{}")
        with pytest.raises(PermissionDenied):
            await etcd.put("/elsewhere", b"{}")
        with pytest.raises(PermissionDenied):
            await acl.grant_node(etcd, "n2", "uid-n2")
        assert (await etcd.member()).alarms == ()


async def test_certificate_without_user_is_denied(secured: EtcdServer) -> None:
    async with Etcd(secured.settings(user="stranger")) as etcd:
        with pytest.raises((PermissionDenied, Unauthenticated)):
            await etcd.get(etcd.keys.node("n1"))


async def test_revoked_node_is_denied_until_granted_again(secured: EtcdServer) -> None:
    async with (
        Etcd(secured.settings(user=acl.USER_OPERATOR)) as operator,
        Etcd(secured.settings(user=acl.user_of_node("uid-n3"))) as etcd,
    ):
        await acl.grant_node(operator, "n3", "uid-n3")
        await etcd.put(etcd.keys.heartbeat("n3"), b"{}")
        for _ in range(2):
            await acl.revoke_node(operator, "n3")
        with pytest.raises((PermissionDenied, Unauthenticated)):
            await etcd.put(etcd.keys.heartbeat("n3"), b"{}")
        informer = Informer(etcd, etcd.keys.assignments_prefix("n3"), stored_pb2.Assignment, lambda key: None)
        task = asyncio.create_task(informer.run())
        await asyncio.sleep(0.3)
        assert not informer.connected
        assert "denied" in informer.problem or "user name" in informer.problem
        await acl.grant_node(operator, "n3", "uid-n3")
        async with asyncio.timeout(8):
            await informer.synced()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_role_of_earlier_version_gets_new_grants(
    secured: EtcdServer,
) -> None:
    async with (
        Etcd(secured.settings(user=acl.USER_OPERATOR)) as operator,
        Etcd(secured.settings(user=acl.user_of_node("uid-n4"))) as etcd,
    ):
        role, user = acl.role_of_node("n4"), acl.user_of_node("uid-n4")
        await operator.role_add(role)
        await operator.role_grant(role, etcd.keys.assignments_prefix("n4"), read=True, write=False)
        await operator.user_add(user)
        await operator.user_grant_role(user, role)
        await etcd.list(etcd.keys.assignments_prefix("n4"))
        with pytest.raises(PermissionDenied):
            await etcd.list(etcd.keys.ingress_prefix("n4"))
        await acl.grant_node(operator, "n4", "uid-n4")
        assert (await etcd.list(etcd.keys.ingress_prefix("n4"))).items == ()


async def test_concurrent_user_changes_are_harmless(secured: EtcdServer) -> None:
    async with (
        Etcd(secured.settings(user=acl.USER_OPERATOR)) as operator,
        Etcd(secured.settings(user=acl.USER_CONTROLLER)) as etcd,
    ):
        stop = asyncio.Event()

        async def read_and_write() -> None:
            while not stop.is_set():
                await etcd.get(etcd.keys.node("n1"))
                await etcd.put(etcd.keys.candidate(9), b"{}")

        tasks = [asyncio.create_task(read_and_write()) for _ in range(8)]
        for number in range(40):
            await operator.user_add(f"passer-by-{number}")
            await operator.user_delete(f"passer-by-{number}")
        stop.set()
        await asyncio.gather(*tasks)


async def test_expired_tokens_are_renewed_with_password(tmp_path: Path) -> None:
    need_etcd()
    secret = tmp_path / "password"
    secret.write_text("pw\n")
    with EtcdServer(tmp_path / "etcd", arguments=("--auth-token-ttl=1",)) as server:
        settings = Settings((server.endpoint,), username="root", password_file=secret)
        async with Etcd(settings) as etcd, LeaseKeeper(etcd) as keeper:
            # Not yet needed, so not yet asked for.
            await etcd.put("/a", b"1")
            for command in ("user add root:pw", "role add root", "user grant-role root root", "auth enable"):
                await asyncio.to_thread(server.etcdctl, *command.split())
            await asyncio.gather(*(etcd.put("/a", b"2") for _ in range(5)))
            lease = await keeper.grant(1)
            both = asyncio.Event()
            informer = Informer(
                etcd, etcd.keys.nodes_prefix, stored_pb2.Node, lambda key: both.set() if key.endswith("n2") else None
            )
            task = asyncio.create_task(informer.run())
            await informer.synced()
            for pause in (0.0, 2.5):
                await asyncio.sleep(pause)
                await etcd.put(etcd.keys.node("n1"), b"{}", lease=lease.id)
            # A restart forgets every token (simple tokens live in memory).
            await asyncio.to_thread(server.restart)
            await etcd.put(etcd.keys.node("n2"), b"{}")
            async with asyncio.timeout(10):
                await both.wait()
            assert len(informer.records) == 2
            # The same where nothing but watches is asked for: older releases say "permission denied" of an old token.
            third = asyncio.Event()
            informer._on_change = lambda key: third.set() if key.endswith("n3") else None
            await asyncio.sleep(6)
            await asyncio.to_thread(server.restart)
            await asyncio.to_thread(server.etcdctl, "--user=root:pw", "put", etcd.keys.node("n3"), "{}")
            async with asyncio.timeout(15):
                await third.wait()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            secret.write_text("wrong")
            await asyncio.sleep(2.5)
            with pytest.raises(Unauthenticated, match="invalid user ID or password"):
                await etcd.get("/a")
            secret.unlink()
            with pytest.raises(Unauthenticated, match="cannot read the password file"):
                await etcd.get("/a")
