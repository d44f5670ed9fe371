"""Etcd with users, root's commands, and nodes with certificates."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from devopsellence.store import acl
from devopsellence.store.etcd import Etcd
from tests.integration.machines.cluster import AgentCluster
from tests.support.authority import Authority
from tests.support.cli import Cli
from tests.support.etcd import EtcdServer
from tests.support.need import need_etcd


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EtcdServer]:
    need_etcd()
    with EtcdServer(tmp_path / "etcd", authority=Authority(tmp_path / "pki")) as running:
        yield running


@pytest.fixture
async def cluster(server: EtcdServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AgentCluster]:
    for name in ("DEVOPSELLENCE_ENVIRONMENT", "DEVOPSELLENCE_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DEVOPSELLENCE_IDENTITY", str(tmp_path / "operator.age"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".git").mkdir()
    settings = server.settings(user=acl.USER_OPERATOR)
    async with Etcd(settings) as etcd:
        await acl.enable(etcd)
        agent_cluster = AgentCluster(server, etcd, Cli(settings, tmp_path), tmp_path)
        try:
            yield agent_cluster
        finally:
            await asyncio.to_thread(agent_cluster.clean)
