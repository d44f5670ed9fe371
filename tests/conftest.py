"""For all tests: the order of their files, a shared etcd, and a prefix of one's own in it."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from itertools import groupby
from pathlib import Path

import pytest

from devopsellence.store.etcd import Etcd
from devopsellence.store.settings import Settings
from tests.support.etcd import EtcdServer
from tests.support.need import need_etcd


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long begin early, so that no worker is left alone with one at the end; those that start several
    hosts begin apart from one another. Unit tests fill the gaps at the end."""
    files = [(path, list(tests)) for path, tests in groupby(items, key=lambda item: item.path)]
    hosts = [one for one in files if "cluster" in _folders(one[0])]
    rest = [one for one in files if one not in hosts]
    rest.sort(key=lambda one: ("unit" in _folders(one[0]), "schedules" not in _folders(one[0])))
    apart = sum("unit" not in _folders(path) for path, _ in rest) // 3
    for number, one in enumerate(hosts):
        rest.insert(number * (apart + 1), one)
    items[:] = [item for _, tests in rest for item in tests]


def _folders(path: Path) -> tuple[str, ...]:
    """The file's folders below ``tests``, the outermost alone."""
    return path.relative_to(Path(__file__).parent).parts[:1]


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
