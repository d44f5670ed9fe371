"""Upload of images to a node's agent: find missing layers, upload the missing bytes, load the images.

After a broken connection, the upload resumes at the byte reported by the agent. Permanent refusals (no disk space, not
an operator) are not retried.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import grpc
import grpc.aio
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_exponential, wait_random

from devopsellence.agent_identity import CHUNK_BYTES
from devopsellence.api.v1.agent_pb2 import (
    FindImagesRequest,
    ImageDescription,
    LayerStart,
    LoadImageRequest,
    SendLayerRequest,
)
from devopsellence.cli.agent.client import AgentEndpoint, call_error
from devopsellence.cli.images.archive import ArchiveIndex, Extent
from devopsellence.cli.images.missing import MissingImages, missing_images
from devopsellence.cli.images.upload_progress import UploadBar

if TYPE_CHECKING:
    from devopsellence.api.v1.agent_pb2_grpc import AgentAsyncStub

T = TypeVar("T")

_ASK_SECONDS: Final = 15.0
#: Long, because Docker may unpack gigabytes.
_LOAD_SECONDS: Final = 1800.0
_ASK_ATTEMPTS: Final = 3
_UPLOAD_ATTEMPTS: Final = 6
#: Permanent refusals, not retried.
_TERMINAL: Final = frozenset(
    {
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)


@dataclass(frozen=True)
class ImageArchive:
    """Archive of saved images, its index, and the names for loading, by image id."""

    path: Path
    index: ArchiveIndex
    names: dict[str, str]


class NodeUpload:
    """Upload of images to a node."""

    def __init__(self, agent: AgentEndpoint, stub: AgentAsyncStub, images: Sequence[ImageDescription]) -> None:
        self.node = agent.node
        self._agent = agent
        self._stub = stub
        self._images = images

    async def find_missing(self) -> MissingImages:
        """Return the images missing on the node. CliError if the agent cannot be asked."""
        return await self._with_retries(_ASK_ATTEMPTS, self._ask)

    async def upload(self, source: ImageArchive, bar: UploadBar) -> None:
        """Upload and load the missing images. CliError after the last failed attempt."""

        async def attempt() -> None:
            # Asked again before every attempt: the agent reports the bytes already uploaded.
            missing = await self._ask()
            bar.begin(sum(source.index.layers[digest].size for digest in missing.layers), missing)
            for digest, offset in missing.layers.items():
                bar.skip(offset)
                await self._send(source.path, digest, source.index.layers[digest], offset, bar)
            for image in missing.images:
                await self._load(source, image)

        await self._with_retries(_UPLOAD_ATTEMPTS, attempt)

    async def _ask(self) -> MissingImages:
        answer = await self._stub.FindImages(FindImagesRequest(images=self._images), timeout=_ASK_SECONDS)
        return missing_images(self.node, self._images, answer)

    async def _send(self, path: Path, digest: str, extent: Extent, offset: int, bar: UploadBar) -> None:
        async def requests() -> AsyncIterator[SendLayerRequest]:
            yield SendLayerRequest(start=LayerStart(diff_id=digest, offset=offset, size=extent.size))
            async for piece in _pieces(path, extent.offset + offset, extent.size - offset):
                yield SendLayerRequest(data=piece)
                bar.advance(len(piece))

        await self._stub.SendLayer(requests())

    async def _load(self, source: ImageArchive, image: str) -> None:
        saved = source.index.images[image]
        await self._stub.LoadImage(
            LoadImageRequest(
                image=ImageDescription(id=image, diff_ids=saved.diff_ids), config=saved.config, tag=source.names[image]
            ),
            timeout=_LOAD_SECONDS,
        )

    async def _with_retries(self, attempts: int, step: Callable[[], Awaitable[T]]) -> T:
        retrying = AsyncRetrying(
            retry=retry_if_exception(_is_temporary),
            stop=stop_after_attempt(attempts),
            wait=wait_exponential(multiplier=0.3, max=5.0) + wait_random(0, 0.3),
            reraise=True,
        )
        try:
            return await retrying(step)
        except grpc.aio.AioRpcError as error:
            raise call_error(self._agent, error) from error


def _is_temporary(error: BaseException) -> bool:
    return isinstance(error, grpc.aio.AioRpcError) and error.code() not in _TERMINAL


async def _pieces(path: Path, offset: int, size: int) -> AsyncIterator[bytes]:
    """Read ``size`` bytes of a file in chunks, on a thread, because disks may be slow."""
    descriptor = await asyncio.to_thread(os.open, path, os.O_RDONLY)
    try:
        end = offset + size
        while offset < end:
            piece = await asyncio.to_thread(os.pread, descriptor, min(CHUNK_BYTES, end - offset), offset)
            if not piece:
                raise OSError(f"{path} ends early")
            offset += len(piece)
            yield piece
    finally:
        os.close(descriptor)
