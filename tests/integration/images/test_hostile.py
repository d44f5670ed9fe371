"""Robustness of the agent's image API: lying callers, a full disk, leftover files."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from devopsellence.api.v1.agent_pb2 import (
    FindImagesRequest,
    ImageDescription,
    LayerStart,
    LoadImageRequest,
    SendLayerRequest,
)
from devopsellence.cli.agent.client import AgentEndpoint, connect
from devopsellence.cli.images.distribute import distribute
from devopsellence.cli.output import CliError
from devopsellence.nodeagent.api import images
from devopsellence.store.etcd import Etcd
from devopsellence.store.settings import Settings
from tests.integration.images.image_node import BUILDER, ImageNode, RecordingOutput, release
from tests.support.authority import Authority
from tests.support.host import Host
from tests.support.images import build_image
from tests.support.until import until

MIB = 1 << 20
DIGEST = f"sha256:{hashlib.sha256(b'abc').hexdigest()}"
CONFIG = json.dumps({"rootfs": {"type": "layers", "diff_ids": [DIGEST]}}).encode()
ID = f"sha256:{hashlib.sha256(CONFIG).hexdigest()}"
TAG = f"devopsellence/shop-123abc:{ID[7:19]}"


async def requests(*pieces: bytes, digest: str = DIGEST, size: int = 3, offset: int = 0) -> AsyncIterator[Any]:
    yield SendLayerRequest(start=LayerStart(diff_id=digest, offset=offset, size=size))
    for piece in pieces:
        yield SendLayerRequest(data=piece)


async def only_data() -> AsyncIterator[Any]:
    yield SendLayerRequest(data=b"abc")


async def code_of(call: Awaitable[Any]) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return refused.value.code()


async def test_hostile_requests_are_refused(operators: Settings, node: ImageNode) -> None:
    invalid, missing = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION
    image = ImageDescription(id=ID, diff_ids=[DIGEST])
    async with connect(operators, AgentEndpoint("n1", node.uid, node.address)) as stub:
        for name in ("../../../etc/passwd", "sha256:../x", f"{DIGEST}\n", DIGEST.upper(), "", f"sha512:{'0' * 128}"):
            assert await code_of(stub.SendLayer(requests(b"abc", digest=name))) is invalid
            asked = FindImagesRequest(images=[ImageDescription(id=name)])
            assert await code_of(stub.FindImages(asked)) is invalid
        assert await code_of(stub.SendLayer(only_data())) is invalid
        assert await code_of(stub.SendLayer(requests(b"abcd"))) is invalid
        assert await code_of(stub.SendLayer(requests(b"abc", offset=5))) is missing
        assert await code_of(stub.SendLayer(requests(size=2**63))) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await code_of(stub.SendLayer(requests(b"abd"))) is grpc.StatusCode.DATA_LOSS
        for tag in (
            "redis:7",
            "devopsellence/shop-123abc:000000000000",
            f"../{TAG}",
            f"{TAG}\n",
            f"evil.example/{TAG}",
        ):
            assert await code_of(stub.LoadImage(LoadImageRequest(image=image, config=CONFIG, tag=tag))) is invalid
        other = LoadImageRequest(image=image, config=CONFIG + b" ", tag=TAG)
        assert await code_of(stub.LoadImage(other)) is invalid
        lying = LoadImageRequest(image=ImageDescription(id=ID, diff_ids=[ID]), config=CONFIG, tag=TAG)
        assert await code_of(stub.LoadImage(lying)) is invalid
        assert await code_of(stub.LoadImage(LoadImageRequest(image=image, config=CONFIG, tag=TAG))) is missing
    assert node.staged() == []


async def test_layer_that_is_not_as_announced_leaves_nothing(operators: Settings, node: ImageNode) -> None:
    async with connect(operators, AgentEndpoint("n1", node.uid, node.address)) as stub:
        for pieces in ([b"ab", b"cd"], [b"a", b"bcd"]):
            assert await code_of(stub.SendLayer(requests(*pieces))) is grpc.StatusCode.INVALID_ARGUMENT
            assert node.staged() == []
        assert await code_of(stub.SendLayer(requests(b"a", b"", b"bc"))) is grpc.StatusCode.INVALID_ARGUMENT
        # What came before stays, and the layer continues there.
        assert (await stub.SendLayer(requests(b"bc", offset=1))).staged_bytes == 3


async def test_silent_upload_ends_and_continues(
    operators: Settings, node: ImageNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "SILENCE_SECONDS", 0.2)

    async def silent() -> AsyncIterator[Any]:
        async for request in requests(b"a"):
            yield request
        await asyncio.Event().wait()

    async with connect(operators, AgentEndpoint("n1", node.uid, node.address)) as stub:
        assert await code_of(stub.SendLayer(silent())) is grpc.StatusCode.DEADLINE_EXCEEDED
        assert (await stub.SendLayer(requests(b"bc", offset=1))).staged_bytes == 3


async def test_number_of_staged_layers_is_limited(
    operators: Settings, node: ImageNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MAX_STAGED", 2)
    others = [f"sha256:{number:064}" for number in range(3)]
    async with connect(operators, AgentEndpoint("n1", node.uid, node.address)) as stub:
        for digest in others[:2]:
            assert (await stub.SendLayer(requests(b"ab", digest=digest))).staged_bytes == 2
        full = grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await code_of(stub.SendLayer(requests(b"ab", digest=others[2]))) is full
        # Those that nobody continues make room.
        for path in node.staging.iterdir():
            os.utime(path, (time.time() - 90000,) * 2)
        assert (await stub.SendLayer(requests(b"ab", digest=others[2]))).staged_bytes == 2


async def test_layer_that_is_no_tar_makes_no_image(operators: Settings, host: Host, node: ImageNode) -> None:
    before = host.docker("images", "-aq")
    image = ImageDescription(id=ID, diff_ids=[DIGEST])
    async with connect(operators, AgentEndpoint("n1", node.uid, node.address)) as stub:
        assert (await stub.SendLayer(requests(b"abc"))).staged_bytes == 3
        load = LoadImageRequest(image=image, config=CONFIG, tag=TAG)
        assert await code_of(stub.LoadImage(load)) is grpc.StatusCode.FAILED_PRECONDITION
    assert host.docker("images", "-aq") == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A state folder on a disk of 4 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def test_node_without_space_is_named_before_upload(
    etcd: Etcd, operators: Settings, host: Host, small_disk: Path, authority: Authority
) -> None:
    image = build_image(8 * MIB)
    async with ImageNode("n1", host.socket, small_disk, authority) as node:
        nodes = [await node.register(etcd)]
        with pytest.raises(CliError) as failed:
            await distribute(etcd, operators, BUILDER, release(image), nodes, RecordingOutput())
        assert failed.value.code == "no_room"
        assert "n1" in failed.value.message
        assert node.servicer.received == []


async def test_full_disk_is_reported_and_staging_cleared(
    operators: Settings, host: Host, small_disk: Path, authority: Authority
) -> None:
    data = os.urandom(3 * MIB)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    async with ImageNode("n1", host.socket, small_disk, authority) as node:
        node.staging.mkdir()
        filler = small_disk / "filler"
        old = node.staging / f"{'0' * 64}.part"
        old.write_bytes(b"old")
        os.utime(old, (time.time() - 90000,) * 2)
        arrived = asyncio.Event()

        async def growing() -> AsyncIterator[Any]:
            yield SendLayerRequest(start=LayerStart(diff_id=digest, size=len(data)))
            yield SendLayerRequest(data=data[:MIB])
            await asyncio.to_thread(until, "the first bytes are here", (node.staging / f"{digest[7:]}.part").exists)
            # Somebody else fills the disk meanwhile.
            filler.write_bytes(bytes(2 * MIB + MIB // 2))
            arrived.set()
            yield SendLayerRequest(data=data[MIB : 2 * MIB])
            yield SendLayerRequest(data=data[2 * MIB :])

        async with connect(operators, AgentEndpoint("n1", node.uid, node.address)) as stub:
            assert await code_of(stub.SendLayer(growing())) is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert arrived.is_set()
            assert not old.exists()
            filler.unlink()
            here = (node.staging / f"{digest[7:]}.part").stat().st_size
            assert here > 0
            answer = await stub.SendLayer(requests(data[here:], digest=digest, size=len(data), offset=here))
        assert answer.staged_bytes == len(data)
        assert (node.staging / f"{digest[7:]}.layer").read_bytes() == data


async def test_unused_staged_layers_are_removed_after_a_day(operators: Settings, node: ImageNode) -> None:
    async with connect(operators, AgentEndpoint("n1", node.uid, node.address)) as stub:
        await stub.SendLayer(requests(b"abc"))
        assert node.staged() == [f"{DIGEST[7:]}.layer"]
        found = await stub.FindImages(FindImagesRequest(images=[ImageDescription(id=ID, diff_ids=[DIGEST])]))
        assert [layer.staged for layer in found.images[0].layers] == [True]
        os.utime(node.staging / f"{DIGEST[7:]}.layer", (time.time() - 90000,) * 2)
        await stub.FindImages(FindImagesRequest())
    assert node.staged() == []


async def test_unreachable_engine_is_reported(operators: Settings, tmp_path: Path, authority: Authority) -> None:
    node = ImageNode("n1", f"unix://{tmp_path}/nothing.sock", tmp_path, authority)
    await node.serve()
    try:
        async with connect(operators, AgentEndpoint("n1", node.uid, node.address)) as stub:
            assert await code_of(stub.FindImages(FindImagesRequest())) is grpc.StatusCode.UNAVAILABLE
    finally:
        await node.stop()
