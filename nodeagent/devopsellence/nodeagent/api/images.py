"""Images that come straight from an operator: which layers are missing, taking them in, making images of them.

Nothing from the wire becomes a path or a name before it has matched its whole pattern. A layer is written by one call
at a time; who comes second waits, and then finds it there. Images are made one at a time: it is the disk that is slow.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
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
from devopsellence.nodeagent.images.staging import DigestMismatch, IncomingLayer, LayerStaging, free_bytes, is_digest
from devopsellence.nodeagent.util.threads import ThreadPool

T = TypeVar("T")

#: In one question.
_MOST_IMAGES: Final = 256
_MIB: Final = 1 << 20
#: What the engine needs for each byte of a layer that it loads: it unpacks the whole archive before it reads it.
_LOAD_FACTOR: Final = 2
_log = structlog.get_logger()


class ImageService:
    """The part of the API that is about images. Every method raises only :class:`CallRefused`."""

    def __init__(self, engine: DockerEngine, staging: LayerStaging, collector: ImageCollector) -> None:
        self._engine = engine
        self._staging = staging
        self._collector = collector
        self._disk = ThreadPool(2, "staging")
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._loading = asyncio.Lock()
        #: Layers by image; an image never changes.
        self._known: dict[str, tuple[str, ...]] = {}

    async def find(self, request: agent_pb2.FindImagesRequest) -> agent_pb2.FindImagesAnswer:
        """Which of the images and layers are here."""
        if len(request.images) > _MOST_IMAGES:
            raise _invalid(f"more than {_MOST_IMAGES} images in one question")
        for image in request.images:
            _check(image)
        self._collector.requested(image.id for image in request.images)
        with _translated():
            present = await self._engine.call(self._images)
            await self._clean()
            free = await self._free()
        answer = agent_pb2.FindImagesAnswer(disk_free_mib=min(free // _MIB, 2**32 - 1))
        chains = layers.all_chain_ids(present.values())
        for image in request.images:
            answer.images.append(self._found(image, chains, present=image.id in present))
        return answer

    async def send_layer(self, requests: AsyncIterator[agent_pb2.SendLayerRequest]) -> agent_pb2.SendLayerAnswer:
        """Take in one layer, or what of it comes before the call breaks off."""
        start = await anext(aiter(requests), agent_pb2.SendLayerRequest())
        if start.WhichOneof("kind") != "start" or not is_digest(start.start.diff_id):
            raise _invalid("a layer begins with its digest, its size and an offset")
        digest, size = start.start.diff_id, start.start.size
        lock = self._locks.setdefault(digest, asyncio.Lock())
        async with lock:
            with _translated():
                staged = await self._on_disk(lambda: self._staging.lookup(digest))
                if staged.complete:
                    return agent_pb2.SendLayerAnswer(staged_bytes=staged.size)
                await self._make_room(size - staged.size, f"layer {digest}")
                arriving = await self._on_disk(lambda: self._staging.write(digest, size))
                try:
                    await self._receive(requests, arriving, start.start)
                except OSError:
                    await self._clean()
                    raise
                finally:
                    await self._on_disk(arriving.close)
        return agent_pb2.SendLayerAnswer(staged_bytes=arriving.received)

    async def load(self, request: agent_pb2.LoadImageRequest) -> agent_pb2.LoadImageAnswer:
        """Make an image of what is here."""
        image = request.image
        _check(image)
        if len(request.config) > MAX_MESSAGE_BYTES:
            raise _invalid("the image's configuration is too long")
        if problem := layers.config_problem(request.config, image.id, image.diff_ids):
            raise _invalid(problem)
        if not layers.is_project_tag(request.tag, image.id):
            raise _invalid(f"{request.tag!r} is not what image {image.id} may be called here")
        async with self._loading:
            with _translated():
                for digest in await self._load(image, request.config, request.tag):
                    await self._on_disk(partial(self._staging.remove, digest))
        self._collector.obtained(image.id)
        return agent_pb2.LoadImageAnswer()

    async def _load(self, image: agent_pb2.ImageDescription, config: bytes, tag: str) -> Iterable[str]:
        """Make the image, unless it is here; the layers that it needs staged no more."""
        present = await self._engine.call(self._images)
        if image.id in present:
            repository, _, name = tag.partition(":")
            await self._engine.call(lambda docker: docker.images.tag(image.id, repository, name))
            return image.diff_ids
        files = await self._on_disk(lambda: self._files(image, layers.all_chain_ids(present.values())))
        size = sum(file.size for file in files.values())
        await self._make_room(_LOAD_FACTOR * size, f"image {image.id}")
        began = time.monotonic()
        pieces = layers.build_archive(image.id, config, tag, image.diff_ids, files)
        # When the caller goes the engine reads on, and what it reads stays: whoever asks next finds the image made.
        await self._engine.pull(lambda docker: docker.images.load(pieces))
        made = await self._engine.call(lambda docker: docker.images.layers(image.id))
        if list(made) != list(image.diff_ids):
            raise CallRefused(grpc.StatusCode.DATA_LOSS, f"the engine has made something else of image {image.id}")
        seconds = round(time.monotonic() - began, 3)
        _log.info("image loaded", image=image.id, tag=tag, layers=len(files), bytes=size, seconds=seconds)
        return files

    def _files(self, image: agent_pb2.ImageDescription, chains: frozenset[str]) -> dict[str, LayerFile]:
        """The layers that the engine lacks."""
        files = {}
        for digest, over in zip(image.diff_ids, layers.chain_ids(image.diff_ids), strict=True):
            staged = self._staging.lookup(digest)
            if over in chains:
                continue
            if not staged.complete:
                sentence = f"layer {digest} of image {image.id} is neither on the engine nor has it been sent"
                raise CallRefused(grpc.StatusCode.FAILED_PRECONDITION, sentence)
            files[digest] = LayerFile(staged.size, partial(self._staging.read, digest))
        return files

    async def _receive(
        self, requests: AsyncIterator[agent_pb2.SendLayerRequest], arriving: IncomingLayer, start: agent_pb2.LayerStart
    ) -> None:
        if start.offset > arriving.received:
            sentence = f"only {arriving.received} bytes of layer {start.diff_id} are here, not {start.offset}"
            raise CallRefused(grpc.StatusCode.FAILED_PRECONDITION, sentence)
        # What another call has brought while this one waited comes a second time, and is passed over.
        again = arriving.received - start.offset
        async for request in requests:
            piece = memoryview(request.data)
            again, piece = max(0, again - len(piece)), piece[again:]
            if len(piece) > arriving.missing:
                raise _invalid(f"layer {start.diff_id} is longer than the {start.size} bytes announced")
            if piece:
                await self._on_disk(partial(arriving.add, piece))
        if arriving.missing:
            return
        try:
            await self._on_disk(arriving.finish)
        except DigestMismatch as error:
            sentence = f"what was sent as layer {start.diff_id} has another digest; it was thrown away"
            raise CallRefused(grpc.StatusCode.DATA_LOSS, sentence) from error

    def _found(
        self, image: agent_pb2.ImageDescription, chains: frozenset[str], *, present: bool
    ) -> agent_pb2.ImageFound:
        found = agent_pb2.ImageFound(present=present)
        if present:
            return found
        for digest, over in zip(image.diff_ids, layers.chain_ids(image.diff_ids), strict=True):
            staged = self._staging.lookup(digest)
            found.layers.add(present=over in chains, staged_bytes=staged.size, staged=staged.complete)
        return found

    def _images(self, docker: DockerClient) -> dict[str, tuple[str, ...]]:
        """The layers of every image of the engine; on a thread."""
        # Another thread may be at the same: each makes a mapping of its own.
        before, found = self._known, {}
        for image in {each.id for each in docker.images.stored()}:
            with suppress(errors.ImageNotAvailable):
                found[image] = before.get(image) or docker.images.layers(image)
        self._known = found
        return found

    async def _free(self) -> int:
        """Bytes of room for both the engine's data and layers."""
        folder = await self._engine.call(lambda docker: docker.images.folder())
        return await self._on_disk(lambda: min(self._staging.free(), _free_of_engine(folder)))

    async def _make_room(self, need: int, what: str) -> None:
        free = await self._free()
        if need > free:
            await self._clean()
            raise _no_room(f"{what} needs {need // _MIB} MiB on this node, and {free // _MIB} MiB are free")

    async def _clean(self) -> None:
        """Remove what was left behind; not what is arriving."""
        arriving = frozenset(self._locks)
        gone = await self._on_disk(lambda: self._staging.clean(time.time(), keep=arriving))
        if gone:
            _log.info("layers that were never used are gone", layers=len(gone))

    async def _on_disk(self, call: Callable[[], T]) -> T:
        """On a thread, and to its end also when the call that wants it is cancelled: a file has one writer."""
        task = asyncio.ensure_future(self._disk.run(call))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait({task})
            raise


def _free_of_engine(folder: Path) -> int:
    # An engine in a container of its own keeps its data where we cannot look.
    return free_bytes(folder) if folder.exists() else 2**63


def _check(image: agent_pb2.ImageDescription) -> None:
    if not is_digest(image.id) or not all(is_digest(each) for each in image.diff_ids):
        raise _invalid("images and layers are named by sha256 digests")
    if len(image.diff_ids) > layers.MAX_LAYERS:
        raise _invalid(f"image {image.id} has more than {layers.MAX_LAYERS} layers")


def _invalid(sentence: str) -> CallRefused:
    return CallRefused(grpc.StatusCode.INVALID_ARGUMENT, sentence)


def _no_room(sentence: str) -> CallRefused:
    return CallRefused(grpc.StatusCode.RESOURCE_EXHAUSTED, sentence)


@contextmanager
def _translated() -> Iterator[None]:
    """What goes wrong with the disk and the engine, as the caller is told it."""
    try:
        yield
    except errors.EngineUnavailable as error:
        raise CallRefused(grpc.StatusCode.UNAVAILABLE, str(error)) from error
    except errors.DiskFull as error:
        raise _no_room(f"no space is left where Docker keeps its data: {error}") from error
    except errors.EngineError as error:
        raise CallRefused(grpc.StatusCode.FAILED_PRECONDITION, f"Docker refuses it: {error}") from error
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        code = grpc.StatusCode.RESOURCE_EXHAUSTED if full else grpc.StatusCode.INTERNAL
        raise CallRefused(code, f"the agent's state folder cannot be used: {error.strerror}") from error
