"""Order of the test files, settings of property tests, a shared etcd, and a prefix in etcd for each test."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from itertools import groupby
from pathlib import Path

import hypothesis
import pytest

from devopsellence.store.etcd import Etcd
from devopsellence.store.settings import Settings
from tests.support.etcd import EtcdServer
from tests.support.need import need_etcd

# No limits of time: a busy machine is no failure. The same examples in every run; `make soak` tries others.
_PATIENT = hypothesis.settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.register_profile("same", _PATIENT, derandomize=True, database=None)
hypothesis.settings.register_profile("random", _PATIENT)
hypothesis.settings.load_profile("same")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order test files by run time, so that no worker is left alone with a slow file at the end.

    Schedules come first, unit tests last. The files of ``tests/cluster`` and ``tests/machines``, which start several
    hosts, are spread over the first two thirds of the other slow files.
    """
    files = [(path, list(tests)) for path, tests in groupby(items, key=lambda item: item.path)]
    several_hosts = [file for file in files if _folder(file[0]) in ("cluster", "machines")]
    ordered = [file for file in files if file not in several_hosts]
    ordered.sort(key=lambda file: (_folder(file[0]) == "unit", _folder(file[0]) != "schedules"))
    # The longest first.
    several_hosts.sort(key=lambda file: _folder(file[0]) != "machines")
    distance = 2 * sum(_folder(path) != "unit" for path, _ in ordered) // (3 * max(1, len(several_hosts) - 1))
    for number, file in enumerate(several_hosts):
        ordered.insert(number * (distance + 1), file)
    items[:] = [item for _, tests in ordered for item in tests]


def _folder(path: Path) -> str:
    """Return the folder of ``tests`` that holds the file."""
    return path.relative_to(Path(__file__).parent).parts[0]


@pytest.fixture(scope="session")
def etcd_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """Plain etcd shared by the session. Tests that stop, kill or fill an etcd start another."""
    need_etcd()
    with EtcdServer(tmp_path_factory.mktemp("etcd")) as server:
        yield server


@pytest.fixture
def settings(etcd_server: EtcdServer) -> Settings:
    """Settings of the shared etcd, with a prefix for this test alone."""
    return etcd_server.settings(f"/test-{uuid.uuid4().hex[:12]}/")


@pytest.fixture
async def etcd(settings: Settings) -> AsyncIterator[Etcd]:
    """Connection to the shared etcd, under a prefix for this test alone."""
    async with Etcd(settings) as client:
        yield client
