"""Renewed client certificates of a running program, against an etcd that knows its users by certificate."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from devopsellence.server_certificate import CertificateFiles
from devopsellence.store.errors import PermissionDenied, Unauthenticated, Unavailable
from devopsellence.store.etcd import Etcd
from devopsellence.store.identities import USER_OPERATOR
from devopsellence.store.lease import LeaseKeeper
from devopsellence.store.settings import SettingsError
from tests.support.authority import Authority, settings_with
from tests.support.etcd import EtcdServer

pytestmark = pytest.mark.etcd


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    folder = tmp_path_factory.mktemp("renewal")
    with EtcdServer(folder / "etcd", authority=Authority(folder / "ca")) as server:
        server.enable_users()
        yield server


@pytest.fixture
async def root(server: EtcdServer) -> AsyncIterator[Etcd]:
    async with Etcd(server.settings(user="root")) as etcd:
        yield etcd


class Renewed:
    """Certificate files of a client that are replaced in place."""

    def __init__(self, server: EtcdServer, folder: Path, user: str) -> None:
        assert server.authority is not None
        self._authority = server.authority
        self.files = CertificateFiles(server.authority.ca_cert, folder / "tls.crt", folder / "tls.key")
        self.settings = settings_with(server.settings(), self.files)
        self.replace(user)

    def replace(self, user: str) -> None:
        """Write another certificate and its key, one file after the other."""
        issued = self._authority.issue(user)
        shutil.copyfile(issued.certificate, self.files.certificate)
        shutil.copyfile(issued.key, self.files.key)


async def test_renewed_certificate_is_used_without_a_restart(server: EtcdServer, root: Etcd, tmp_path: Path) -> None:
    renewed = Renewed(server, tmp_path, "stranger")
    async with Etcd(renewed.settings) as etcd:
        with pytest.raises((PermissionDenied, Unauthenticated)):
            await etcd.get(etcd.keys.node("n1"))
        renewed.replace(USER_OPERATOR)
        await etcd.put(etcd.keys.node("n1"), b"1")
    stored = await root.get(root.keys.node("n1"))
    assert stored is not None
    assert stored.value == b"1"


async def test_open_watch_and_lease_outlive_a_renewal(server: EtcdServer, root: Etcd, tmp_path: Path) -> None:
    renewed = Renewed(server, tmp_path, USER_OPERATOR)
    async with Etcd(renewed.settings) as etcd, LeaseKeeper(etcd) as keeper, asyncio.timeout(20):
        lease = await keeper.grant(2)
        start = await etcd.put(etcd.keys.node("n1"), b"before")
        async with aclosing(etcd.watch(etcd.keys.nodes_prefix, start_revision=start + 1)) as batches:
            await anext(batches)
            for number in range(3):
                renewed.replace(USER_OPERATOR)
                await etcd.put(etcd.keys.node("n1"), str(number).encode())
                (event,) = (await anext(batches)).events
                assert event.kv is not None
                assert event.kv.value == str(number).encode()
        assert not lease.lost.is_set()


async def test_calls_at_once_during_renewals_all_succeed(server: EtcdServer, root: Etcd, tmp_path: Path) -> None:
    renewed = Renewed(server, tmp_path, USER_OPERATOR)
    async with Etcd(renewed.settings) as etcd, asyncio.timeout(30):

        async def write(number: int) -> None:
            for round_ in range(20):
                await etcd.put(etcd.keys.node(f"n{number}"), str(round_).encode())

        writers = [asyncio.create_task(write(number)) for number in range(8)]
        while not all(writer.done() for writer in writers):
            await asyncio.to_thread(renewed.replace, USER_OPERATOR)
        await asyncio.gather(*writers)


async def test_half_renewed_certificate_changes_nothing(server: EtcdServer, root: Etcd, tmp_path: Path) -> None:
    renewed = Renewed(server, tmp_path, USER_OPERATOR)
    async with Etcd(renewed.settings) as etcd:
        await etcd.put(etcd.keys.node("n1"), b"1")
        assert server.authority is not None
        other = server.authority.issue(USER_OPERATOR)
        shutil.copyfile(other.certificate, renewed.files.certificate)
        await etcd.put(etcd.keys.node("n1"), b"2")
        renewed.files.key.unlink()
        await etcd.put(etcd.keys.node("n1"), b"3")
        shutil.copyfile(other.key, renewed.files.key)
        await etcd.put(etcd.keys.node("n1"), b"4")


async def test_key_of_another_certificate_is_named_at_the_start(server: EtcdServer, root: Etcd, tmp_path: Path) -> None:
    renewed = Renewed(server, tmp_path, USER_OPERATOR)
    assert server.authority is not None
    shutil.copyfile(server.authority.issue("other").key, renewed.files.key)
    with pytest.raises(SettingsError, match=r"tls\.key is not the key of .*tls\.crt"):
        async with Etcd(renewed.settings):
            raise Unavailable("not reached")
