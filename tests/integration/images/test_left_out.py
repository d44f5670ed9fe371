"""Deploys while an agent or a Docker Engine is dead: that node alone goes without images."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import pytest

from devopsellence.cli.images.distribute import distribute
from devopsellence.cli.images.docker_cli import DockerCli
from devopsellence.cli.output import CliError
from devopsellence.store.etcd import Etcd
from devopsellence.store.settings import Settings
from tests.integration.images.image_node import BUILDER, ImageNode, RecordingOutput, release
from tests.support.authority import Authority
from tests.support.host import Host
from tests.support.images import build_image


@pytest.fixture
def dead(host: Host, tmp_path: Path, authority: Authority) -> ImageNode:
    """A second node, whose agent does not answer."""
    node = ImageNode("n2", host.socket, tmp_path / "n2", authority)
    node.address = "127.0.0.1:1"
    return node


async def test_dead_agent_is_left_out_once_its_heartbeat_is_gone(
    etcd: Etcd, operators: Settings, host: Host, node: ImageNode, dead: ImageNode
) -> None:
    image, output = build_image(b"dead agent"), RecordingOutput()
    lease = await etcd.grant_lease(600)
    nodes = [await node.register(etcd), await dead.register(etcd, lease=lease)]
    async with asyncio.TaskGroup() as expiry:

        class Builder(DockerCli):
            async def save(self, images: Sequence[str], into: IO[bytes]) -> str:
                expiry.create_task(etcd.revoke_lease(lease))
                return await super().save(images, into)

        await distribute(etcd, operators, Builder(), release(image), nodes, output)
    assert host.docker("image", "inspect", "-f", "{{.Id}}", image) == image
    (warning,) = output.warnings
    assert warning.startswith("cannot reach the agent of node n2 at 127.0.0.1:1")
    assert warning.endswith("node n2 is left out and catches up later, from other nodes")


async def test_node_without_engine_is_left_out(
    etcd: Etcd, operators: Settings, host: Host, node: ImageNode, dead: ImageNode
) -> None:
    image, output = build_image(b"dead engine"), RecordingOutput()
    nodes = [await node.register(etcd), await dead.register(etcd, problem="the Docker Engine does not answer")]
    await distribute(etcd, operators, BUILDER, release(image), nodes, output)
    assert host.docker("image", "inspect", "-f", "{{.Id}}", image) == image
    assert output.warnings == [
        "node n2: the Docker Engine does not answer; node n2 is left out and catches up later, from other nodes"
    ]


async def test_image_that_is_nowhere_else_is_not_left_out(
    etcd: Etcd, operators: Settings, node: ImageNode, dead: ImageNode
) -> None:
    nodes = [await dead.register(etcd, problem="the Docker Engine does not answer")]
    with pytest.raises(CliError) as failed:
        await distribute(etcd, operators, BUILDER, release(build_image(b"only here")), nodes, RecordingOutput())
    assert failed.value.code == "images_not_sent"
    assert "cordon" not in failed.value.text()
