"""Pulls of images from peers (service ``Peers`` of ``agent.proto``), for images without a registry.

The engine reads while the image arrives: nothing is kept on this node but images accepted by the engine as a whole.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final
from weakref import WeakValueDictionary

import grpc
import grpc.aio
import structlog

from devopsellence import input_file
from devopsellence.agent_identity import IMAGE_BYTES, KEEPALIVE_SECONDS, MAX_MESSAGE_BYTES, server_name
from devopsellence.api.v1.agent_pb2 import FetchImageRequest
from devopsellence.api.v1.agent_pb2_grpc import PeersStub
from devopsellence.api.v1.stored_pb2 import Peer
from devopsellence.nodeagent.docker import errors
from devopsellence.nodeagent.docker.engine import DockerEngine
from devopsellence.nodeagent.images.archive import filter_archive
from devopsellence.nodeagent.images.archive_content import InvalidImageArchive
from devopsellence.nodeagent.images.incoming import IncomingArchive, PeerFailed
from devopsellence.nodeagent.images.staging import engine_free_bytes
from devopsellence.nodeagent.util.threads import ThreadPool
from devopsellence.server_certificate import CertificateFiles

#: Limit for connection and handshake: a machine that is down does not even refuse.
CONNECT_SECONDS: Final = 6.0
#: Interval of progress reports.
PROGRESS_SECONDS: Final = 1.0
_MIB: Final = 1 << 20
#: Disk space that a pull leaves free.
RESERVE_BYTES: Final = 256 * _MIB
#: Disk space needed per byte of an image: the engine unpacks the whole archive before reading it.
_LOAD_FACTOR: Final = 2
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # Detects a peer that vanished, also in the middle of an image.
    ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_SECONDS * 500),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.use_local_subchannel_pool", 1),
)
_log = structlog.get_logger()


class PeerPuller:
    """Pulls images from peers, with the certificate in ``files``, and loads images into the engine."""

    def __init__(self, engine: DockerEngine, node_uid: str, files: CertificateFiles) -> None:
        self._engine = engine
        self._uid = node_uid
        self._files = files
        self._disk = ThreadPool(1, "room")
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        #: Uids of peers that failed last time: asked last.
        self._failed: set[str] = set()

    async def fetch(self, image: str, peers: Sequence[Peer], progress: Callable[[str], None]) -> None:
        """Pull an image, unless present. ``progress`` is called with texts, on the event loop.

        Raises:
            ImageNotAvailable: no peer provides the image; the message has the reason of each peer.
            DiskFull: no space left for the image.
            EngineUnavailable.
        """
        async with self._locks.setdefault(image, asyncio.Lock()):
            if await self._present(image):
                return
            problems, full = [], None
            # The controller varies the order of peers from node to node.
            for peer in sorted(peers, key=lambda peer: peer.uid in self._failed):
                if peer.uid == self._uid:
                    continue
                try:
                    await self._pull_from(peer, image, progress)
                except PeerFailed as failure:
                    self._failed.add(peer.uid)
                    problems.append(f"{peer.node}: {failure}")
                    _log.warning("cannot pull an image from a peer", image=image, peer=peer.node, reason=str(failure))
                except errors.DiskFull as error:
                    # The size is the peer's claim: the next peer may report a smaller size.
                    full = error
                else:
                    self._failed.discard(peer.uid)
                    return
            if full is not None:
                raise full
            raise errors.ImageNotAvailable("; ".join(problems) or "no peer to pull from")

    async def _pull_from(self, peer: Peer, image: str, progress: Callable[[str], None]) -> None:
        began = time.monotonic()
        progress(f"from {peer.node}")
        try:
            async with self._open_call(peer, image) as call:
                size = _size(await call.initial_metadata())
                await self._make_room(size, image)
                count = await self._load(image, peer.node, call, size, progress)
        except grpc.aio.AioRpcError as error:
            raise PeerFailed(_reason(error)) from error
        except ValueError as error:
            raise PeerFailed(f"cannot connect: {error}") from error
        if not await self._present(image):
            raise PeerFailed("it sent a different image")
        seconds = round(time.monotonic() - began, 3)
        _log.info("image pulled from a peer", image=image, peer=peer.node, bytes=count, seconds=seconds)

    @asynccontextmanager
    async def _open_call(self, peer: Peer, image: str) -> AsyncIterator[Any]:
        """Yield the call to a peer once connected, and cancel the rest of the call after the block."""
        options = (*_OPTIONS, ("grpc.ssl_target_name_override", server_name(peer.uid)))
        async with grpc.aio.secure_channel(peer.api_address, self._credentials(), options=options) as channel:
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    await _connected(channel)
            except TimeoutError as error:
                raise PeerFailed(f"no connection to {peer.api_address} within {CONNECT_SECONDS:.0f} s") from error
            call: Any = PeersStub(channel).FetchImage(FetchImageRequest(image=image))
            try:
                yield call
            finally:
                call.cancel()

    def _credentials(self) -> grpc.ChannelCredentials:
        """Read the certificate files for each pull, so that a renewed certificate needs no restart."""
        files = self._files
        try:
            authority, key, chain = (input_file.read(path) for path in (files.authority, files.key, files.certificate))
        except OSError as error:
            raise PeerFailed(f"{error.filename} cannot be read: {error.strerror}") from error
        return grpc.ssl_channel_credentials(authority, key, chain)

    async def _load(self, image: str, node: str, call: Any, size: int, progress: Callable[[str], None]) -> int:
        """Load the image into the engine while it arrives, and return the number of bytes."""
        loop = asyncio.get_running_loop()
        reported = loop.time()

        def report(count: int) -> None:
            nonlocal reported
            if loop.time() >= reported + PROGRESS_SECONDS:
                reported = loop.time()
                progress(f"{_progress(count, size)} from {node}")

        arriving = IncomingArchive(call, size, report, lambda: self._check_room(image))

        def pieces() -> Iterator[bytes]:
            """Iterate over the pieces on the engine's thread."""
            try:
                yield first
                while data := asyncio.run_coroutine_threadsafe(arriving.next_piece(), loop).result():
                    yield data
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
                raise PeerFailed(_reason(error)) from error

        # The peer may serve others first. No thread of the engine waits for that.
        first = await arriving.first_piece()
        try:
            await self._engine.pull(lambda docker: docker.images.load(filter_archive(image, pieces())))
        except InvalidImageArchive as error:
            raise PeerFailed(f"it sent an invalid archive: {error}") from error
        except (errors.DiskFull, errors.EngineUnavailable):
            raise
        except errors.EngineError as error:
            raise PeerFailed(f"Docker rejected the archive: {error}") from error
        return arriving.count

    async def _present(self, image: str) -> bool:
        try:
            await self._engine.call(lambda docker: docker.images.layers(image))
        except errors.ImageNotAvailable:
            return False
        return True

    async def _make_room(self, size: int, image: str) -> None:
        """Raise DiskFull without enough space; skip the check where free space is unknown."""
        free, need = await self._free(), _LOAD_FACTOR * size
        if need > free:
            raise errors.DiskFull(
                f"image {image} needs {need // _MIB} MiB on this node, and {free // _MIB} MiB are free"
            )

    async def _check_room(self, image: str) -> None:
        """Raise DiskFull if an image that is arriving leaves too little space, whatever its size is said to be."""
        free = await self._free()
        if free < RESERVE_BYTES:
            raise errors.DiskFull(f"image {image} leaves only {free // _MIB} MiB on this node")

    async def _free(self) -> int:
        folder = await self._engine.call(lambda docker: docker.images.folder())
        return await self._disk.run(lambda: engine_free_bytes(folder))


async def _connected(channel: grpc.aio.Channel) -> None:
    """Wait for a connection or a failure; the call itself reports a failure."""
    connectivity = grpc.ChannelConnectivity
    while (state := channel.get_state(try_to_connect=True)) in (connectivity.IDLE, connectivity.CONNECTING):
        await channel.wait_for_state_change(state)


def _size(metadata: Any) -> int:
    """Return the size of the image as reported by the peer; 0 if missing."""
    text = next((str(value) for key, value in metadata or () if key == IMAGE_BYTES), "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0


def _progress(count: int, size: int) -> str:
    # An archive is slightly larger than its image.
    return f"{count // 1_000_000} of {max(count, size) // 1_000_000} MB" if size else f"{count // 1_000_000} MB"


def _reason(error: Exception) -> str:
    if not isinstance(error, grpc.aio.AioRpcError):
        return "the connection broke"
    details = error.details() or error.code().name
    return f"does not answer: {details}" if error.code() is grpc.StatusCode.UNAVAILABLE else details
