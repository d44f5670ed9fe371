"""Cluster for each module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from devopsellence.store.settings import Settings
from tests.integration.etcd.secured_cluster import SecuredCluster, running_cluster
from tests.support.cli import Cli
from tests.support.host import need_host
from tests.support.images import small_image
from tests.support.need import need_docker, need_etcd


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredCluster]:
    """Cluster with 12 MB of space in etcd."""
    need_etcd()
    need_docker()
    need_host()
    small_image()
    with running_cluster(tmp_path_factory.mktemp("stage"), ETCD_QUOTA_BACKEND_BYTES=str(12 * 1024 * 1024)) as made:
        yield made


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Commands in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return Cli(Settings(("127.0.0.1:1",)), tmp_path)


@pytest.fixture
def untouched(cluster: SecuredCluster) -> Iterator[None]:
    """Check that the untouchable container and all programs are the same afterwards."""
    steady, programs = cluster.steady(), [program.pid for program in cluster.programs]
    assert steady.endswith(" true")
    yield
    assert cluster.steady() == steady
    assert [program.pid for program in cluster.programs if program.running] == programs
