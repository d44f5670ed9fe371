"""A gateway for each test, in front of the shared etcd, under a prefix of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from devopsellence.store.settings import Settings
from tests.support.authority import Authority
from tests.support.gateway import RunningGateway, running_gateway


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("gateway-ca"))


@pytest.fixture
async def gateway(settings: Settings, authority: Authority) -> AsyncIterator[RunningGateway]:
    async with running_gateway(settings, authority) as running:
        yield running
