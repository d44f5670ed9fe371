"""A gateway in front of etcd, root's commands through it, and nodes with certificates."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from devopsellence.store.identities import USER_CONTROLLER
from tests.integration.machines.cluster import AgentCluster
from tests.support.authority import Authority
from tests.support.cli import Cli
from tests.support.etcd import EtcdServer
from tests.support.gateway import running_gateway
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
    assert server.authority is not None
    settings = server.settings(user=USER_CONTROLLER)
    # The gateway is in this process: its log must not be mixed with the output of commands.
    with capture_logs():
        async with running_gateway(settings, server.authority) as gateway:
            agent_cluster = AgentCluster(settings, gateway, Cli(gateway.root(), tmp_path), tmp_path)
            try:
                yield agent_cluster
            finally:
                await asyncio.to_thread(agent_cluster.clean)
