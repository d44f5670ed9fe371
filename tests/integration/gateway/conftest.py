"""A gateway for each test, in front of the shared etcd, under a prefix of the test's own."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import structlog.testing

from devopsellence.store.etcd import Etcd
from devopsellence.store.settings import Settings
from tests.support.authority import Authority
from tests.support.etcd import EtcdServer
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.gateway_cluster import GatewayCluster, gateway_cluster


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("gateway-ca"))


@pytest.fixture
async def gateway(etcd_server: EtcdServer, authority: Authority) -> AsyncIterator[RunningGateway]:
    settings = etcd_server.settings(f"/test-{uuid.uuid4().hex[:12]}/")
    async with running_gateway(settings, authority) as running:
        yield running


@pytest.fixture
async def audited(etcd_server: EtcdServer, authority: Authority, tmp_path: Path) -> AsyncIterator[RunningGateway]:
    """A gateway that keeps an audit trail in the folder ``audit``."""
    settings = etcd_server.settings(f"/test-{uuid.uuid4().hex[:12]}/")
    async with running_gateway(settings, authority, audit=tmp_path / "audit") as running:
        yield running


@pytest.fixture
async def cluster(
    etcd: Etcd, settings: Settings, authority: Authority, tmp_path: Path
) -> AsyncIterator[GatewayCluster]:
    async with gateway_cluster(etcd, settings, authority, tmp_path) as running:
        yield running


@pytest.fixture
def quiet() -> Iterator[None]:
    """Keep the gateways' lines out of the output of commands."""
    with structlog.testing.capture_logs():
        yield
