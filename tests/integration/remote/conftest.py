from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.remote.cluster import FakeAgentCluster
from tests.support.authority import Authority
from tests.support.etcd import EtcdServer
from tests.support.need import need_etcd


@pytest.fixture(scope="session")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """Etcd with TLS, whose authority also issues agents' certificates."""
    need_etcd()
    folder = tmp_path_factory.mktemp("secured")
    with EtcdServer(folder / "etcd", authority=Authority(folder / "pki")) as server:
        yield server


@pytest.fixture
def cluster(secured: EtcdServer, tmp_path: Path) -> Iterator[FakeAgentCluster]:
    """An environment without nodes, under a prefix of the test's own."""
    (tmp_path / ".git").mkdir()
    with FakeAgentCluster(secured, f"/test-{uuid.uuid4().hex[:12]}/", tmp_path) as fake_agent_cluster:
        yield fake_agent_cluster
