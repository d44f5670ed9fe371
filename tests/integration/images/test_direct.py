"""Uploads of images from the building engine to a node: real engines, mutual TLS, broken connections."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO, Any

import pytest

from devopsellence.api.v1.agent_pb2 import LayerStart, SendLayerRequest
from devopsellence.cli.agent.client import AgentEndpoint, connect
from devopsellence.cli.images.build import image_name
from devopsellence.cli.images.distribute import distribute
from devopsellence.cli.output import CliError
from devopsellence.store.etcd import Etcd
from devopsellence.store.settings import Settings
from tests.integration.images.image_node import (
    BUILDER,
    ENVIRONMENT,
    CountingDocker,
    ImageNode,
    RecordingOutput,
    release,
)
from tests.support.authority import Authority
from tests.support.docker import docker
from tests.support.host import Host
from tests.support.images import build_image
from tests.support.relay import Relay
from tests.support.until import until

MIB = 1 << 20


def layers_of(host: Host, image: str) -> str:
    return host.docker("image", "inspect", "-f", "{{json .RootFS.Layers}}", image)


async def test_uploaded_image_has_id_name_and_content(
    etcd: Etcd, operators: Settings, host: Host, node: ImageNode
) -> None:
    image, output = build_image(b"hello\n", 3 * MIB), RecordingOutput()
    nodes = [await node.register(etcd)]
    await distribute(etcd, operators, BUILDER, release(image), nodes, output)
    assert host.docker("image", "inspect", "-f", "{{.Id}}", image_name(ENVIRONMENT, image)) == image
    assert host.docker("run", "--rm", "--network", "none", image, "cat", "/f0") == "hello"
    assert node.staged() == []
    assert [data["stage"] for _, data in output.messages] == ["sending", "sent"]


async def test_full_folder_of_temporary_files_is_named(
    etcd: Etcd, operators: Settings, node: ImageNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FullDocker(CountingDocker):
        async def save(self, images: Any, into: IO[bytes]) -> str:
            await super().save(images, into)
            return "write /dev/stdout: no space left on device"

    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    nodes, wanted = [await node.register(etcd)], release(build_image(b"full\n"))
    with pytest.raises(CliError) as refused:
        await distribute(etcd, operators, FullDocker(), wanted, nodes, RecordingOutput())
    assert refused.value.code == "temporary_files"
    assert f"cannot write temporary files in {folder}: No space left on device" == refused.value.message
    folder.rmdir()  # it is empty


async def test_second_deploy_uploads_changed_layer_only(
    etcd: Etcd, operators: Settings, host: Host, node: ImageNode
) -> None:
    big = os.urandom(5 * MIB)
    nodes = [await node.register(etcd)]
    first, second = build_image(big, b"one"), build_image(big, b"two")
    await distribute(etcd, operators, BUILDER, release(first), nodes, RecordingOutput())
    output = RecordingOutput()
    await distribute(etcd, operators, BUILDER, release(second), nodes, output)
    # One file of three bytes in a tar.
    assert 0 < output.sent("n1") <= 10240
    assert output.messages[0][1]["layers_there"] == 2
    assert layers_of(host, second).count("sha256") == 3


async def test_no_image_is_saved_for_nodes_with_all_layers(
    etcd: Etcd, operators: Settings, host: Host, node: ImageNode
) -> None:
    image, builder, output = build_image(b"once"), CountingDocker(), RecordingOutput()
    nodes = [await node.register(etcd)]
    await distribute(etcd, operators, builder, release(image), nodes, output)
    await distribute(etcd, operators, builder, release(image, image), nodes, output)
    assert builder.saves == 1
    assert node.servicer.loads == 1


async def test_broken_upload_resumes(etcd: Etcd, operators: Settings, host: Host, node: ImageNode) -> None:
    image, output = build_image(8 * MIB), RecordingOutput()
    nodes = [await node.register(etcd)]
    await distribute(etcd, operators, BUILDER, release(build_image(b"base")), nodes, RecordingOutput())
    node.servicer.received.clear()
    node.servicer.breaks = [4, 3]
    await distribute(etcd, operators, BUILDER, release(image), nodes, output)
    offsets = [offset for offset, _ in node.servicer.received]
    assert offsets == [0, 3 * MIB, 5 * MIB]
    assert host.docker("image", "inspect", "-f", "{{.Id}}", image) == image


async def test_broken_network_repeats_little(etcd: Etcd, operators: Settings, host: Host, node: ImageNode) -> None:
    image = build_image(12 * MIB)
    await distribute(
        etcd, operators, BUILDER, release(build_image(b"base")), [await node.register(etcd)], RecordingOutput()
    )
    node.servicer.received.clear()
    async with Relay(int(node.address.rpartition(":")[2])) as relay:
        node.address = relay.endpoint
        node.servicer.cut, node.servicer.breaks = relay.cut, [5]
        await distribute(etcd, operators, BUILDER, release(image), [await node.register(etcd)], RecordingOutput())
    (_, before), (offset, _) = node.servicer.received
    # All that had been read was kept, but for what was in hand when it broke.
    assert before - MIB <= offset <= before
    assert offset > 0
    assert host.docker("image", "inspect", "-f", "{{.Id}}", image) == image


async def test_ended_caller_leaves_staged_layers(operators: Settings, node: ImageNode) -> None:
    data = os.urandom(3 * MIB)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    part = node.staging / f"{digest.removeprefix('sha256:')}.part"

    async def half() -> AsyncIterator[SendLayerRequest]:
        yield SendLayerRequest(start=LayerStart(diff_id=digest, size=len(data)))
        yield SendLayerRequest(data=data[:MIB])
        await asyncio.Event().wait()

    async def rest() -> AsyncIterator[SendLayerRequest]:
        yield SendLayerRequest(start=LayerStart(diff_id=digest, offset=MIB, size=len(data)))
        yield SendLayerRequest(data=data[MIB : 2 * MIB])
        yield SendLayerRequest(data=data[2 * MIB :])

    async with connect(operators, AgentEndpoint("n1", node.uid, node.address)) as stub:
        call = stub.SendLayer(half())
        await asyncio.to_thread(until, "half has arrived", lambda: part.exists() and part.stat().st_size == MIB)
        call.cancel()
        assert await asyncio.wait_for(_answer(stub.SendLayer(rest())), 60) == len(data)


async def test_staged_layers_survive_the_agent_and_are_verified(
    etcd: Etcd, operators: Settings, host: Host, tmp_path: Path, authority: Authority, node: ImageNode
) -> None:
    image = build_image(6 * MIB)
    await node.stop()
    async with ImageNode("n1", host.socket, tmp_path, authority) as before:
        nodes = [await before.register(etcd)]
        before.servicer.breaks = [-1, 3, 1, 1, 1, 1, 1]
        with pytest.raises(CliError) as failed:
            await distribute(etcd, operators, BUILDER, release(image), nodes, RecordingOutput())
        assert failed.value.code == "images_not_sent"
        assert "n1" in failed.value.message
        assert [name for name in before.staged() if name.endswith(".part")]
    # What is in the file is another thing than was sent: found out at the end, thrown away, sent anew.
    part = next(path for path in before.staging.iterdir() if path.suffix == ".part")
    part.write_bytes(bytes(part.stat().st_size))
    async with ImageNode("n1", host.socket, tmp_path, authority) as after:
        nodes = [await after.register(etcd)]
        await distribute(etcd, operators, BUILDER, release(image), nodes, RecordingOutput())
        offsets = [offset for offset, _ in after.servicer.received]
        assert offsets[0] > 0
        assert offsets[-1] == 0
    assert host.docker("image", "inspect", "-f", "{{.Id}}", image) == image


async def test_image_with_repeated_layer_is_uploaded(
    etcd: Etcd, operators: Settings, host: Host, node: ImageNode
) -> None:
    image = build_image(b"same", lines=("COPY f0 /f0",))
    listed = docker("image", "inspect", "-f", "{{range .RootFS.Layers}}{{.}} {{end}}", image).split()
    assert listed[1] == listed[2]
    nodes = [await node.register(etcd)]
    await distribute(etcd, operators, BUILDER, release(image), nodes, RecordingOutput())
    assert host.docker("image", "inspect", "-f", "{{.Id}}", image) == image


async def test_failed_node_is_named_and_others_continue(
    etcd: Etcd, operators: Settings, host: Host, node: ImageNode, tmp_path: Path, authority: Authority
) -> None:
    image, output = build_image(b"two nodes"), RecordingOutput()
    gone = ImageNode("n2", host.socket, tmp_path, authority)
    gone.address = "127.0.0.1:1"
    silent = ImageNode("n3", host.socket, tmp_path, authority)
    nodes = [await node.register(etcd), await gone.register(etcd), await silent.register(etcd, alive=False)]
    with pytest.raises(CliError) as failed:
        await distribute(etcd, operators, BUILDER, release(image), nodes, output)
    assert failed.value.code == "images_not_sent"
    assert [finding.code for finding in failed.value.findings] == ["agent_unreachable"]
    assert "n2" in failed.value.findings[0].message
    assert "to deploy without n2, run devopsellence node cordon n2" in failed.value.message
    assert host.docker("image", "inspect", "-f", "{{.Id}}", image) == image
    assert len(output.warnings) == 1
    assert "n3" in output.warnings[0]


async def test_missing_image_is_named(etcd: Etcd, operators: Settings, node: ImageNode) -> None:
    nodes = [await node.register(etcd)]
    with pytest.raises(CliError) as failed:
        await distribute(etcd, operators, BUILDER, release(f"sha256:{'0' * 64}"), nodes, RecordingOutput())
    assert failed.value.code == "image_unavailable"


async def test_concurrent_callers_upload_layer_once(operators: Settings, node: ImageNode) -> None:
    """The second caller waits for the first, and then finds the layer uploaded."""
    data = os.urandom(4 * MIB)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slowly() -> AsyncIterator[SendLayerRequest]:
        yield SendLayerRequest(start=LayerStart(diff_id=digest, size=len(data)))
        yield SendLayerRequest(data=data[:MIB])
        begun.set()
        await go_on.wait()
        yield SendLayerRequest(data=data[MIB:])

    async def quickly() -> AsyncIterator[SendLayerRequest]:
        yield SendLayerRequest(start=LayerStart(diff_id=digest, size=len(data)))
        for offset in range(0, len(data), MIB):
            yield SendLayerRequest(data=data[offset : offset + MIB])

    async with connect(operators, AgentEndpoint("n1", node.uid, node.address)) as stub:
        first = asyncio.ensure_future(_answer(stub.SendLayer(slowly())))
        await asyncio.wait_for(begun.wait(), 30)
        second = asyncio.ensure_future(_answer(stub.SendLayer(quickly())))
        go_on.set()
        assert set(await asyncio.wait_for(asyncio.gather(first, second), 60)) == {len(data)}
    assert (node.staging / f"{digest.removeprefix('sha256:')}.layer").read_bytes() == data


async def _answer(call: object) -> int:
    return int((await call).staged_bytes)  # type: ignore[misc]
