"""Fixtures for all tests: a shared etcd, and a prefix of one's own in it."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator

import pytest

from devopsellence.store.etcd import Etcd
from devopsellence.store.settings import Settings
from tests.support.etcd import EtcdServer
from tests.support.need import need_etcd


@pytest.fixture(scope="session")
def etcd_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """One plain etcd for the whole session. Tests that stop, kill or fill an etcd start their own."""
    need_etcd()
    with EtcdServer(tmp_path_factory.mktemp("etcd")) as server:
        yield server


@pytest.fixture
def settings(etcd_server: EtcdServer) -> Settings:
    """Settings for the shared etcd, with a prefix that no other test uses."""
    return etcd_server.settings(f"/test-{uuid.uuid4().hex[:12]}/")


@pytest.fixture
async def etcd(settings: Settings) -> AsyncIterator[Etcd]:
    """Connected to the shared etcd, under a prefix that no other test uses."""
    async with Etcd(settings) as client:
        yield client
