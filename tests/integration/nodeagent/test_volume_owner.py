"""The owner of a volume, as the engine tells it of containers that have ended."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from devopsellence.nodeagent.docker.client import DEFAULT_HOST, DockerClient
from tests.support.docker import docker
from tests.support.images import IMAGE, small_image


@pytest.fixture
def volume() -> Iterator[str]:
    small_image()
    name = f"devopsellence-test-{uuid.uuid4().hex[:12]}"
    docker("volume", "create", name)
    yield name
    docker("volume", "rm", "--force", name)


@pytest.mark.parametrize(
    ("user", "owner", "hinted"),
    [("1000", "0", True), ("1000:1000", "0", True), ("1000", "1000", False), ("0", "0", False)],
)
def test_volume_of_root_is_found_after_the_container_has_ended(
    volume: str, user: str, owner: str, hinted: bool
) -> None:
    mount = ("--volume", f"{volume}:/data", "--entrypoint", "chown", IMAGE)
    docker("run", "--rm", "--user", "0", *mount, owner, "/data")
    # Without root's rights it ends with an error, as root it changes nothing.
    container = docker("create", "--user", user, *mount, owner, "/data")
    client = DockerClient(DEFAULT_HOST, "another")
    try:
        docker("start", container)
        docker("wait", container)
        hint = client.volume_hint(container)
        assert bool(hint) is hinted
        if hinted:
            # The command in the hint fixes it.
            command = hint.partition("`")[2].partition("`")[0]
            docker(*command.split()[1:])
            assert client.volume_hint(container) == ""
    finally:
        client.close()
        docker("rm", "--force", container)
