"""Getting an image that no registry has from another node's agent (service ``Peers`` of ``agent.proto``).

The engine reads while the image arrives: nothing is kept on this machine but what the engine has taken as a whole.
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

from devopsellence.agent_identity import IMAGE_BYTES, KEEPALIVE_SECONDS, MAX_MESSAGE_BYTES, server_name
from devopsellence.api.v1.agent_pb2 import FetchImageRequest
from devopsellence.api.v1.agent_pb2_grpc import PeersStub
from devopsellence.api.v1.stored_pb2 import Peer
from devopsellence.nodeagent.docker import errors
from devopsellence.nodeagent.docker.engine import DockerEngine
from devopsellence.nodeagent.images.archive import InvalidImageArchive, filter_archive
from devopsellence.nodeagent.images.staging import free_bytes
from devopsellence.nodeagent.tls import Files
from devopsellence.nodeagent.util.threads import ThreadPool

#: For a connection and its handshake: a machine that has gone does not even refuse.
CONNECT_SECONDS: Final = 6.0
#: Between two words about how far it is.
PROGRESS_SECONDS: Final = 1.0
_MIB: Final = 1 << 20
#: What the engine needs for each byte of an image: it unpacks the whole archive before it reads it.
_LOAD_FACTOR: Final = 2
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A node that has gone without a word is found, also in the middle of an image.
    ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_SECONDS * 500),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.use_local_subchannel_pool", 1),
)
_log = structlog.get_logger()


class _Broken(Exception):
    """This node does not give the image; says why."""


class PeerPuller:
    """Asks other nodes with the certificate in ``files``, and has ``engine`` take what they send."""

    def __init__(self, engine: DockerEngine, node_uid: str, files: Files) -> None:
        self._engine = engine
        self._uid = node_uid
        self._files = files
        self._disk = ThreadPool(1, "room")
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        #: The machines that have failed to give an image, since one has: they are asked last.
        self._failed: set[str] = set()

    async def fetch(self, image: str, peers: Sequence[Peer], progress: Callable[[str], None]) -> None:
        """Have the image on this machine. ``progress`` hears how far it is, in words, on the loop.

        Raises:
            ImageNotAvailable: nobody gives it; says who said what.
            DiskFull: there is no room for it.
            EngineUnavailable.
        """
        async with self._locks.setdefault(image, asyncio.Lock()):
            if await self._present(image):
                return
            problems, full = [], None
            # Who is asked first has been told apart by the controller.
            for peer in sorted(peers, key=lambda each: each.uid in self._failed):
                if peer.uid == self._uid:
                    continue
                try:
                    await self._from(peer, image, progress)
                except _Broken as broken:
                    self._failed.add(peer.uid)
                    problems.append(f"{peer.node}: {broken}")
                    _log.warning("an image could not be fetched", image=image, peer=peer.node, reason=str(broken))
                except errors.DiskFull as error:
                    # How large it is, is what that node says: another may know better.
                    full = error
                else:
                    self._failed.discard(peer.uid)
                    return
            if full is not None:
                raise full
            raise errors.ImageNotAvailable("; ".join(problems) or "there is no other node to ask")

    async def _from(self, peer: Peer, image: str, progress: Callable[[str], None]) -> None:
        began = time.monotonic()
        progress(f"from {peer.node}")
        try:
            async with self._asked(peer, image) as call:
                size = _size(await call.initial_metadata())
                await self._make_room(size, image)
                count = await self._load(image, peer.node, call, size, progress)
        except grpc.aio.AioRpcError as error:
            raise _Broken(_why(error)) from error
        except ValueError as error:
            raise _Broken(f"it cannot be asked: {error}") from error
        if not await self._present(image):
            raise _Broken("it has sent something else")
        seconds = round(time.monotonic() - began, 3)
        _log.info("image fetched", image=image, peer=peer.node, bytes=count, seconds=seconds)

    @asynccontextmanager
    async def _asked(self, peer: Peer, image: str) -> AsyncIterator[Any]:
        """The call, once it has a connection; what is left of it ends with the block."""
        options = (*_OPTIONS, ("grpc.ssl_target_name_override", server_name(peer.uid)))
        async with grpc.aio.secure_channel(peer.api_address, self._credentials(), options=options) as channel:
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    await _decided(channel)
            except TimeoutError as error:
                raise _Broken(f"no connection to {peer.api_address} within {CONNECT_SECONDS:.0f} s") from error
            call: Any = PeersStub(channel).FetchImage(FetchImageRequest(image=image))
            try:
                yield call
            finally:
                call.cancel()

    def _credentials(self) -> grpc.ChannelCredentials:
        """Read anew each time, so that a renewed certificate needs no restart."""
        files = self._files
        try:
            authority, key, chain = (path.read_bytes() for path in (files.authority, files.key, files.certificate))
        except OSError as error:
            raise _Broken(f"{error.filename} cannot be read: {error.strerror}") from error
        return grpc.ssl_channel_credentials(authority, key, chain)

    async def _load(self, image: str, node: str, call: Any, size: int, progress: Callable[[str], None]) -> int:
        """Have the engine read what arrives; how many bytes that were."""
        loop = asyncio.get_running_loop()
        count, told = 0, loop.time()

        async def piece() -> bytes:
            """The next bytes, when the engine has taken those before; empty at the end."""
            nonlocal count, told
            part = await call.read()
            if part is grpc.aio.EOF:
                return b""
            count += len(part.data)
            if loop.time() >= told + PROGRESS_SECONDS:
                told = loop.time()
                progress(f"{_of(count, size)} from {node}")
            return bytes(part.data)

        def pieces() -> Iterator[bytes]:
            """On the engine's thread."""
            try:
                while data := asyncio.run_coroutine_threadsafe(piece(), loop).result():
                    yield data
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
                raise _Broken(_why(error)) from error

        try:
            await self._engine.pull(lambda docker: docker.images.load(filter_archive(image, pieces())))
        except InvalidImageArchive as error:
            raise _Broken(f"what it sends is not the image: {error}") from error
        except (errors.DiskFull, errors.EngineUnavailable):
            raise
        except errors.EngineError as error:
            raise _Broken(f"Docker does not take what it sends: {error}") from error
        return count

    async def _present(self, image: str) -> bool:
        try:
            await self._engine.call(lambda docker: docker.images.layers(image))
        except errors.ImageNotAvailable:
            return False
        return True

    async def _make_room(self, size: int, image: str) -> None:
        """DiskFull where there is none; nothing where that cannot be known."""
        folder = await self._engine.call(lambda docker: docker.images.folder())
        # An engine in a container of its own keeps its data where we cannot look.
        free = await self._disk.run(lambda: free_bytes(folder) if folder.exists() else 2**63)
        need = _LOAD_FACTOR * size
        if need > free:
            raise errors.DiskFull(f"image {image} needs {need // _MIB} MiB here, and {free // _MIB} MiB are free")


async def _decided(channel: grpc.aio.Channel) -> None:
    """Until there is a connection, or a reason why there is none: the call tells it."""
    connectivity = grpc.ChannelConnectivity
    while (state := channel.get_state(try_to_connect=True)) in (connectivity.IDLE, connectivity.CONNECTING):
        await channel.wait_for_state_change(state)


def _size(metadata: Any) -> int:
    """How large the image is, as its sender says; 0 if it does not."""
    said = next((str(value) for key, value in metadata or () if key == IMAGE_BYTES), "")
    return int(said) if said.isascii() and said.isdigit() and len(said) < 19 else 0


def _of(count: int, size: int) -> str:
    # An archive is a little larger than the image that it holds.
    return f"{count // 1_000_000} of {max(count, size) // 1_000_000} MB" if size else f"{count // 1_000_000} MB"


def _why(error: Exception) -> str:
    if not isinstance(error, grpc.aio.AioRpcError):
        return "the connection broke"
    said = error.details() or error.code().name
    return f"does not answer: {said}" if error.code() is grpc.StatusCode.UNAVAILABLE else said
