"""Local clusters for a module and for a test, and an image to run there."""

from __future__ import annotations

import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.dev import Dev
from tests.support.docker import docker
from tests.support.need import lack, need_docker, need_etcd

BUSYBOX = Path("/bin/busybox")


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory, image: str) -> Iterator[Dev]:
    """Local cluster for the module; its containers are removed before the image."""
    need_etcd()
    dev = Dev(tmp_path_factory.mktemp("local") / "home")
    dev("up")
    yield dev
    dev("down", "--purge", "--yes")
    assert dev.processes() == []
    assert not dev.home.exists()


@pytest.fixture
def up(dev: Dev) -> Dev:
    """Running cluster of the module, whatever the previous test did."""
    if len(dev.pids()) < 4:
        dev("up")
    return dev


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Dev]:
    """No local cluster yet; none is left afterwards."""
    need_docker()
    dev = Dev(tmp_path / "home")
    yield dev
    dev("down", "--purge", "-y")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Image with nothing but a shell."""
    need_docker()
    if not BUSYBOX.exists():
        lack("needs /bin/busybox (busybox-static)")
    archive = tmp_path_factory.mktemp("image") / "image.tar"
    with tarfile.open(archive, "w") as tar:
        for name in ("sh", "sleep"):
            tar.add(BUSYBOX, f"bin/{name}")
    name = f"devopsellence-test-{uuid.uuid4().hex[:8]}"
    docker("import", str(archive), name)
    yield name
    docker("rmi", name)
