"""Image uploads from operators: search for missing layers, upload of layers, and loading of images.

No input becomes a path or name before matching a complete pattern. A layer is written by a single call at a time; a
second call waits and then finds the layer. Images are loaded one after the other, because the disk is the bottleneck.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Final, TypeVar
from weakref import WeakValueDictionary

import grpc
import structlog

from devopsellence.agent_identity import MAX_MESSAGE_BYTES
from devopsellence.api.v1 import agent_pb2
from devopsellence.nodeagent.api.auth import CallRefused
from devopsellence.nodeagent.docker import errors
from devopsellence.nodeagent.docker.client import DockerClient
from devopsellence.nodeagent.docker.engine import DockerEngine
from devopsellence.nodeagent.images import layers
from devopsellence.nodeagent.images.gc import ImageCollector
from devopsellence.nodeagent.images.layers import LayerFile
from devopsellence.nodeagent.images.staging import (
    DigestMismatch,
    IncomingLayer,
    LayerStaging,
    engine_free_bytes,
    is_digest,
    total_bytes,
)
from devopsellence.nodeagent.util.threads import ThreadPool

T = TypeVar("T")

#: Limit per request.
_MAX_IMAGES: Final = 256
_MIB: Final = 1 << 20
#: Disk space needed per byte of a layer: the engine unpacks the whole archive before reading it.
_LOAD_FACTOR: Final = 2
#: Longest wait for the next piece of a layer; the layer continues with another call.
SILENCE_SECONDS: Final = 60.0
#: Limit of staged layers, complete or not.
MAX_STAGED: Final = 2048
#: Disk space that uploads leave free, as a share of the disk and at most: the agent needs some for itself.
_RESERVE_SHARE: Final = 0.02
_RESERVE_BYTES: Final = 256 * _MIB
#: Bytes of a layer from one check of the free space to the next.
_CHECK_BYTES: Final = 64 * _MIB
_log = structlog.get_logger()


class ImageService:
    """Image calls of the API. Methods raise only :class:`CallRefused`."""

    def __init__(self, engine: DockerEngine, staging: LayerStaging, collector: ImageCollector) -> None:
        self._engine = engine
        self._staging = staging
        self._collector = collector
        self._disk = ThreadPool(2, "staging")
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._loading = asyncio.Lock()
        #: Layers by image id; never outdated, because images are immutable.
        self._known: dict[str, tuple[str, ...]] = {}

    async def find(self, request: agent_pb2.FindImagesRequest) -> agent_pb2.FindImagesAnswer:
        """Return the images and layers already on this node."""
        if len(request.images) > _MAX_IMAGES:
            raise _invalid(f"more than {_MAX_IMAGES} images in a request")
        for image in request.images:
            _check(image)
        self._collector.requested(image.id for image in request.images)
        with _errors_as_refusals():
            present = await self._engine.call(self._layers_by_image)
            await self._clean()
            free = await self._free()
        answer = agent_pb2.FindImagesAnswer(disk_free_mib=min(free // _MIB, 2**32 - 1))
        chains = layers.all_chain_ids(present.values())
        for image in request.images:
            answer.images.append(self._image_found(image, chains, present=image.id in present))
        return answer

    async def send_layer(self, requests: AsyncIterator[agent_pb2.SendLayerRequest]) -> agent_pb2.SendLayerAnswer:
        """Receive a layer, or part of a layer if the call breaks off."""
        start = await anext(aiter(requests), agent_pb2.SendLayerRequest())
        if start.WhichOneof("kind") != "start" or not is_digest(start.start.diff_id):
            raise _invalid("an upload must start with the layer's digest, size and offset")
        digest, size = start.start.diff_id, start.start.size
        lock = self._locks.setdefault(digest, asyncio.Lock())
        async with lock:
            with _errors_as_refusals():
                staged = await self._on_disk(lambda: self._staging.lookup(digest))
                if staged.complete:
                    return agent_pb2.SendLayerAnswer(staged_bytes=staged.size)
                await self._make_room(max(0, size - staged.size), f"layer {digest}", another=not staged.size)
                incoming = await self._on_disk(lambda: self._staging.write(digest, size))
                try:
                    await self._receive(requests, incoming, start.start)
                except OSError:
                    await self._clean()
                    raise
                finally:
                    await self._on_disk(incoming.close)
        return agent_pb2.SendLayerAnswer(staged_bytes=incoming.received)

    async def load(self, request: agent_pb2.LoadImageRequest) -> agent_pb2.LoadImageAnswer:
        """Load an image from layers on this node."""
        image = request.image
        _check(image)
        if len(request.config) > MAX_MESSAGE_BYTES:
            raise _invalid("the image's configuration is too large")
        if problem := layers.config_problem(request.config, image.id, image.diff_ids):
            raise _invalid(problem)
        if not layers.is_project_tag(request.tag, image.id):
            raise _invalid(f"{request.tag!r} is not a valid tag for image {image.id}")
        async with self._loading:
            with _errors_as_refusals():
                for digest in await self._load(image, request.config, request.tag):
                    await self._on_disk(partial(self._staging.remove, digest))
        self._collector.obtained(image.id)
        return agent_pb2.LoadImageAnswer()

    async def _load(self, image: agent_pb2.ImageDescription, config: bytes, tag: str) -> Iterable[str]:
        """Load the image, unless present; return the digests of staged layers no longer needed."""
        present = await self._engine.call(self._layers_by_image)
        if image.id in present:
            repository, _, name = tag.partition(":")
            await self._engine.call(lambda docker: docker.images.tag(image.id, repository, name))
            return image.diff_ids
        files = await self._on_disk(lambda: self._files(image, layers.all_chain_ids(present.values())))
        size = sum(file.size for file in files.values())
        await self._make_room(_LOAD_FACTOR * size, f"image {image.id}")
        started = time.monotonic()
        pieces = layers.build_archive(image.id, config, tag, image.diff_ids, files)
        # If the caller goes, the engine still completes the image: the next request finds it.
        await self._engine.pull(lambda docker: docker.images.load(pieces))
        loaded = await self._engine.call(lambda docker: docker.images.layers(image.id))
        if list(loaded) != list(image.diff_ids):
            raise CallRefused(
                grpc.StatusCode.DATA_LOSS, f"the Docker Engine loaded different layers for image {image.id}"
            )
        seconds = round(time.monotonic() - started, 3)
        _log.info("image loaded", image=image.id, tag=tag, layers=len(files), bytes=size, seconds=seconds)
        return files

    def _files(self, image: agent_pb2.ImageDescription, chains: frozenset[str]) -> dict[str, LayerFile]:
        """Return the staged layers missing on the engine."""
        files = {}
        for digest, chain_id in zip(image.diff_ids, layers.chain_ids(image.diff_ids), strict=True):
            staged = self._staging.lookup(digest)
            if chain_id in chains:
                continue
            if not staged.complete:
                message = f"layer {digest} of image {image.id} is neither on the engine nor uploaded"
                raise CallRefused(grpc.StatusCode.FAILED_PRECONDITION, message)
            files[digest] = LayerFile(staged.size, partial(self._staging.read, digest))
        return files

    async def _receive(
        self, requests: AsyncIterator[agent_pb2.SendLayerRequest], incoming: IncomingLayer, start: agent_pb2.LayerStart
    ) -> None:
        if start.offset > incoming.received:
            message = f"only {incoming.received} bytes of layer {start.diff_id} were received, not {start.offset}"
            raise CallRefused(grpc.StatusCode.FAILED_PRECONDITION, message)
        # Skip bytes already received from another call while this call waited.
        duplicate = incoming.received - start.offset
        checked = incoming.received
        async for data in _pieces(requests, start.diff_id):
            duplicate, piece = max(0, duplicate - len(data)), data[duplicate:]
            if len(piece) > incoming.missing:
                await self._on_disk(incoming.discard)
                raise _invalid(f"layer {start.diff_id} is longer than the {start.size} bytes announced")
            if piece:
                await self._on_disk(partial(incoming.add, piece))
            if incoming.received >= checked + _CHECK_BYTES:
                # Others write to the same disk meanwhile.
                checked = incoming.received
                await self._make_room(0, f"layer {start.diff_id}")
        if incoming.missing:
            return
        try:
            await self._on_disk(incoming.finish)
        except DigestMismatch as error:
            message = f"layer {start.diff_id} has a different digest and was discarded"
            raise CallRefused(grpc.StatusCode.DATA_LOSS, message) from error

    def _image_found(
        self, image: agent_pb2.ImageDescription, chains: frozenset[str], *, present: bool
    ) -> agent_pb2.ImageFound:
        result = agent_pb2.ImageFound(present=present)
        if present:
            return result
        for digest, chain_id in zip(image.diff_ids, layers.chain_ids(image.diff_ids), strict=True):
            staged = self._staging.lookup(digest)
            result.layers.add(present=chain_id in chains, staged_bytes=staged.size, staged=staged.complete)
        return result

    def _layers_by_image(self, docker: DockerClient) -> dict[str, tuple[str, ...]]:
        """Return the layers of every image on the engine; runs on a thread."""
        # Thread-safe without a lock: every call builds a new mapping.
        previous, current = self._known, {}
        for image in {stored.id for stored in docker.images.stored()}:
            with suppress(errors.ImageNotAvailable):
                current[image] = previous.get(image) or docker.images.layers(image)
        self._known = current
        return current

    async def _free(self) -> int:
        """Return the free bytes, for both the engine's data and staged layers."""
        folder = await self._engine.call(lambda docker: docker.images.folder())
        return await self._on_disk(lambda: min(self._staging.free(), engine_free_bytes(folder)))

    async def _make_room(self, needed: int, subject: str, *, another: bool = False) -> None:
        """Raise CallRefused without the space for ``needed`` bytes and the reserve, or for ``another`` staged layer."""
        free, reserve = await self._free(), await self._on_disk(self._reserve)
        if needed + reserve > free:
            await self._clean()
            more = f"needs {needed // _MIB} MiB on this node and leaves" if needed else "leaves"
            raise _no_room(f"{subject} {more} too little of the {free // _MIB} MiB that are free")
        if another and await self._on_disk(self._staging.count) >= MAX_STAGED:
            await self._clean()
            if await self._on_disk(self._staging.count) >= MAX_STAGED:
                raise _no_room(f"{MAX_STAGED} layers are staged on this node already; they are removed after a day")

    def _reserve(self) -> int:
        return min(_RESERVE_BYTES, int(total_bytes(self._staging.folder) * _RESERVE_SHARE))

    async def _clean(self) -> None:
        """Remove abandoned layers, except layers being uploaded."""
        arriving = frozenset(self._locks)
        removed = await self._on_disk(lambda: self._staging.clean(time.time(), keep=arriving))
        if removed:
            _log.info("abandoned layers removed", layers=len(removed))

    async def _on_disk(self, call: Callable[[], T]) -> T:
        """Run a call on a thread, to its end even if cancelled: a file must have a single writer."""
        task = asyncio.ensure_future(self._disk.run(call))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait({task})
            raise


async def _pieces(requests: AsyncIterator[agent_pb2.SendLayerRequest], digest: str) -> AsyncIterator[memoryview]:
    """Yield the pieces of a layer. CallRefused for anything else, and if the caller falls silent."""
    source = aiter(requests)
    while True:
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                request = await anext(source, None)
        except TimeoutError as error:
            message = f"nothing of layer {digest} has arrived for {SILENCE_SECONDS:.0f} s"
            raise CallRefused(grpc.StatusCode.DEADLINE_EXCEEDED, message) from error
        if request is None:
            return
        if not request.data:
            raise _invalid(f"a piece of layer {digest} is empty")
        yield memoryview(request.data)


def _check(image: agent_pb2.ImageDescription) -> None:
    if not is_digest(image.id) or not all(is_digest(diff_id) for diff_id in image.diff_ids):
        raise _invalid("images and layers must be given as sha256 digests")
    if len(image.diff_ids) > layers.MAX_LAYERS:
        raise _invalid(f"image {image.id} has more than {layers.MAX_LAYERS} layers")


def _invalid(message: str) -> CallRefused:
    return CallRefused(grpc.StatusCode.INVALID_ARGUMENT, message)


def _no_room(message: str) -> CallRefused:
    return CallRefused(grpc.StatusCode.RESOURCE_EXHAUSTED, message)


@contextmanager
def _errors_as_refusals() -> Iterator[None]:
    """Turn errors of the disk and the engine into refusals."""
    try:
        yield
    except errors.EngineUnavailable as error:
        raise CallRefused(grpc.StatusCode.UNAVAILABLE, str(error)) from error
    except errors.DiskFull as error:
        raise _no_room(f"no space left in Docker's data root: {error}") from error
    except errors.EngineError as error:
        raise CallRefused(grpc.StatusCode.FAILED_PRECONDITION, f"Docker refused the image: {error}") from error
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        code = grpc.StatusCode.RESOURCE_EXHAUSTED if full else grpc.StatusCode.INTERNAL
        raise CallRefused(code, f"the agent's state folder cannot be used: {error.strerror}") from error
