"""Host with the images of the examples, for the modules that deploy them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.host import Host
from tests.support.images import IMAGE, service_images, small_image
from tests.support.need import need_docker

EXAMPLE = Path(__file__).parents[3] / "examples" / "services"


@pytest.fixture(scope="session")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """Host with a local cluster, and the images named in the documents and guides."""
    need_docker()
    images = service_images()
    with Host(tmp_path_factory.mktemp("stocked")) as machine:
        small_image()
        for image in (IMAGE, *images):
            machine.load_image(image)
        machine.docker("tag", IMAGE, "small:test")
        machine.docker("build", "--tag", "registry.example.com/search:1", str(EXAMPLE / "search"))
        machine.devopsellence("dev", "up")
        yield machine
