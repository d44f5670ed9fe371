"""A gateway for each test, in front of the shared etcd, under a prefix of the test's own."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import pytest

from tests.support.authority import Authority
from tests.support.etcd import EtcdServer
from tests.support.gateway import RunningGateway, running_gateway


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("gateway-ca"))


@pytest.fixture
async def gateway(etcd_server: EtcdServer, authority: Authority) -> AsyncIterator[RunningGateway]:
    settings = etcd_server.settings(f"/test-{uuid.uuid4().hex[:12]}/")
    async with running_gateway(settings, authority) as running:
        yield running
