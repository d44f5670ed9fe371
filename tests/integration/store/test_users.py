"""An etcd with users, as in clusters of earlier versions: changes of users, passwords with tokens that expire."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from devopsellence.api.v1 import stored_pb2
from devopsellence.store.errors import Unauthenticated
from devopsellence.store.etcd import Etcd
from devopsellence.store.identities import USER_CONTROLLER
from devopsellence.store.informer import Informer
from devopsellence.store.lease import LeaseKeeper
from devopsellence.store.settings import Settings
from tests.support.authority import Authority
from tests.support.etcd import EtcdServer
from tests.support.need import need_etcd

pytestmark = pytest.mark.etcd


async def test_concurrent_user_changes_are_harmless(tmp_path: Path) -> None:
    need_etcd()
    with EtcdServer(tmp_path / "etcd", authority=Authority(tmp_path / "ca")) as server:
        await asyncio.to_thread(server.enable_users)
        async with Etcd(server.settings(user=USER_CONTROLLER)) as etcd:
            stop = asyncio.Event()

            async def read_and_write() -> None:
                while not stop.is_set():
                    await etcd.get(etcd.keys.node("n1"))
                    await etcd.put(etcd.keys.candidate(9), b"{}")

            tasks = [asyncio.create_task(read_and_write()) for _ in range(8)]
            for number in range(10):
                await asyncio.to_thread(server.etcdctl, "user", "add", f"passer-by-{number}", "--no-password")
                await asyncio.to_thread(server.etcdctl, "user", "delete", f"passer-by-{number}")
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
