"""A second engine, as the nodes', beside the one that builds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from devopsellence.store.settings import Settings
from tests.integration.images.image_node import BUILT, Receiving, docker, operator
from tests.support.fake_agent import AgentAuthority
from tests.support.host import Host
from tests.support.need import need_docker


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """An engine without any image."""
    need_docker()
    with Host(tmp_path_factory.mktemp("host")) as made:
        yield made


@pytest.fixture(scope="module", autouse=True)
def _built() -> Iterator[None]:
    """Nothing that was built here stays on the machine's own engine."""
    yield
    for image in dict.fromkeys(BUILT):
        docker("rmi", "-f", image, check=False)
    BUILT.clear()


@pytest.fixture
def authority(tmp_path: Path) -> AgentAuthority:
    return AgentAuthority(tmp_path / "pki")


@pytest.fixture
def operators(settings: Settings, authority: AgentAuthority) -> Settings:
    """Settings with an operator's certificate."""
    return operator(settings, authority)


@pytest.fixture
async def node(host: Host, tmp_path: Path, authority: AgentAuthority) -> AsyncIterator[Receiving]:
    """A node on that engine, whose images are gone at the end."""
    async with Receiving("n1", host.socket, tmp_path, authority) as made:
        yield made
    if images := host.docker("images", "-aq", "--no-trunc").split():
        host.docker("rmi", "-f", *dict.fromkeys(images))
