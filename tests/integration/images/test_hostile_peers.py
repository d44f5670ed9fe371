"""Hostile peers: whatever they send instead of an image, nothing stays, and the next peer is asked."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias, cast

import grpc.aio
import pytest

from devopsellence.agent_identity import IMAGE_BYTES
from devopsellence.api.v1.agent_pb2 import ImagePart
from devopsellence.api.v1.agent_pb2_grpc import PeersServicer, add_PeersServicer_to_server
from devopsellence.api.v1.stored_pb2 import Peer
from devopsellence.nodeagent.docker.engine import DockerEngine, EngineCallbacks
from devopsellence.nodeagent.docker.errors import DiskFull, ImageNotAvailable
from devopsellence.nodeagent.images import incoming, peer_pull
from devopsellence.nodeagent.images.peer_pull import PeerPuller
from devopsellence.server_certificate import ReloadingCertificate
from tests.support.authority import Authority
from tests.support.docker import docker
from tests.support.host import Host
from tests.support.images import build_image
from tests.support.until import until

pytestmark = pytest.mark.docker
MIB = 1 << 20
#: Sends pieces with the given function.
Behaviour: TypeAlias = Callable[[Callable[[bytes], Awaitable[None]]], Awaitable[None]]


class _Servicer:
    def __init__(self, announced: int, behaviour: Behaviour) -> None:
        self._announced = announced
        self._behaviour = behaviour

    async def FetchImage(self, _request: Any, context: Any) -> None:  # noqa: N802 - the call's name
        await context.send_initial_metadata(((IMAGE_BYTES, str(self._announced)),))

        async def send(data: bytes) -> None:
            await context.write(ImagePart(data=data))

        await self._behaviour(send)


@asynccontextmanager
async def peer(authority: Authority, name: str, announced: int, behaviour: Behaviour) -> AsyncIterator[Peer]:
    server = grpc.aio.server()
    add_PeersServicer_to_server(cast("PeersServicer", _Servicer(announced, behaviour)), server)
    port = server.add_secure_port("127.0.0.1:0", ReloadingCertificate(authority.issue_agent(name)).credentials())
    await server.start()
    try:
        yield Peer(node=name, uid=name, api_address=f"127.0.0.1:{port}")
    finally:
        await server.stop(None)


@asynccontextmanager
async def puller(host: Host, authority: Authority) -> AsyncIterator[PeerPuller]:
    connected = asyncio.Event()
    engine = DockerEngine(host.socket, "uid", EngineCallbacks(lambda _: None, lambda: None, connected.set))
    running = asyncio.create_task(engine.run())
    try:
        await asyncio.wait_for(connected.wait(), 30)
        yield PeerPuller(engine, "uid", authority.issue_agent("uid"))
    finally:
        running.cancel()
        await asyncio.wait({running})


async def endless(send: Callable[[bytes], Awaitable[None]]) -> None:
    """Send one file that does not end."""
    header = bytearray(512)
    header[:9] = b"layer.tar"
    header[100:108], header[108:116], header[116:124] = b"0000644\0", b"0000000\0", b"0000000\0"
    header[124:136], header[136:148] = b"77777777777\0", b"00000000000\0"
    header[156:157], header[257:265] = b"0", b"ustar\x0000"
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    await send(bytes(header))
    while True:
        await send(bytes(MIB))


async def empty(send: Callable[[bytes], Awaitable[None]]) -> None:
    while True:
        await send(b"")


async def nothing(_send: Callable[[bytes], Awaitable[None]]) -> None:
    await asyncio.Event().wait()


async def silent(send: Callable[[bytes], Awaitable[None]]) -> None:
    await send(bytes(100))
    await asyncio.Event().wait()


async def slow(send: Callable[[bytes], Awaitable[None]]) -> None:
    while True:
        await send(b"\0")
        await asyncio.sleep(0.05)


async def noise(send: Callable[[bytes], Awaitable[None]]) -> None:
    await send(b"noise" * MIB)


def left(host: Host) -> list[str]:
    """Return the names of temporary files of the engine, and its images."""
    root = Path(json.loads(host.docker("info", "--format", "{{json .DockerRootDir}}")))
    temporary = [path.name for path in (root / "tmp").iterdir()] if (root / "tmp").exists() else []
    return [*temporary, *host.docker("images", "-aq").split()]


@pytest.mark.parametrize(
    ("behaviour", "why"),
    [
        (endless, r"it sent \d+ bytes for an image of 1000 bytes"),
        (empty, "it sent an empty piece"),
        (nothing, "it has sent nothing for 1 s"),
        (silent, "it has sent nothing for 1 s"),
        (slow, "it is too slow"),
        (noise, "it sent an invalid archive"),
    ],
)
async def test_hostile_peer_is_cut_off_and_next_one_is_asked(
    host: Host, authority: Authority, monkeypatch: pytest.MonkeyPatch, behaviour: Behaviour, why: str
) -> None:
    for name, value in {"TURN_SECONDS": 1.0, "SILENCE_SECONDS": 1.0, "SIZE_ADDITION": 32 * MIB}.items():
        monkeypatch.setattr(incoming, name, value)
    before = left(host)
    image = "sha256:" + "0" * 64
    async with (
        puller(host, authority) as own,
        peer(authority, "hostile", 1000, behaviour) as hostile,
        peer(authority, "other", 1000, noise) as other,
    ):
        with pytest.raises(ImageNotAvailable, match=f"hostile: {why}.*; other: it sent an invalid archive"):
            await own.fetch(image, [hostile, other], lambda _: None)
    await asyncio.to_thread(lambda: until("nothing is left", lambda: left(host) == before))


async def test_announced_size_beyond_the_disk_is_refused(host: Host, authority: Authority) -> None:
    async with puller(host, authority) as own, peer(authority, "hostile", 10**18 - 1, nothing) as hostile:
        with pytest.raises(DiskFull, match="needs"):
            await own.fetch("sha256:" + "0" * 64, [hostile], lambda _: None)


async def test_transfer_that_fills_the_disk_is_cut_off(
    host: Host, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_pull, "RESERVE_BYTES", 2**62)
    async with puller(host, authority) as own, peer(authority, "hostile", 1000, endless) as hostile:
        with pytest.raises(DiskFull, match="leaves only"):
            await own.fetch("sha256:" + "0" * 64, [hostile], lambda _: None)


async def test_image_with_other_layers_leaves_nothing(host: Host, authority: Authority) -> None:
    """The peer sends the configuration of the image, and layers of its choice."""
    image = build_image(b"ours\n")
    saved = await asyncio.to_thread(lambda: _saved(image))
    forged = saved.replace(b"ours\n", b"evil\n")
    assert forged != saved
    before = left(host)

    async def forgery(send: Callable[[bytes], Awaitable[None]]) -> None:
        for start in range(0, len(forged), MIB):
            await send(forged[start : start + MIB])

    async def honest(send: Callable[[bytes], Awaitable[None]]) -> None:
        for start in range(0, len(saved), MIB):
            await send(saved[start : start + MIB])

    async with (
        puller(host, authority) as own,
        peer(authority, "hostile", len(saved), forgery) as hostile,
        peer(authority, "honest", len(saved), honest) as other,
    ):
        with pytest.raises(ImageNotAvailable, match="has a different digest than"):
            await own.fetch(image, [hostile], lambda _: None)
        await asyncio.to_thread(lambda: until("nothing is left", lambda: left(host) == before))
        await own.fetch(image, [hostile, other], lambda _: None)
    assert host.docker("run", "--rm", "--network", "none", image, "cat", "/f0") == "ours"
    host.docker("rmi", "-f", image)
    docker("rmi", "-f", image)


def _saved(image: str) -> bytes:
    return subprocess.run(["docker", "save", image], check=True, capture_output=True).stdout
