"""Second Docker Engine for the nodes, beside the engine that builds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from devopsellence.store.settings import Settings
from tests.integration.images.image_node import ImageNode
from tests.support.authority import Authority, settings_with
from tests.support.host import Host
from tests.support.images import remove_built_images
from tests.support.need import need_docker


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """An engine without any image."""
    need_docker()
    with Host(tmp_path_factory.mktemp("host")) as made:
        yield made


@pytest.fixture(scope="module", autouse=True)
def _images_removed() -> Iterator[None]:
    """Remove the images built by the module from this machine's engine."""
    yield
    remove_built_images()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


@pytest.fixture
def operators(settings: Settings, authority: Authority) -> Settings:
    """Settings with an operator's certificate."""
    return settings_with(settings, authority.issue("operator:ann"))


@pytest.fixture
async def node(host: Host, tmp_path: Path, authority: Authority) -> AsyncIterator[ImageNode]:
    """Node on the second engine; its images are removed at the end."""
    async with ImageNode("n1", host.socket, tmp_path, authority) as image_node:
        yield image_node
    if images := host.docker("images", "-aq", "--no-trunc").split():
        host.docker("rmi", "-f", *dict.fromkeys(images))
