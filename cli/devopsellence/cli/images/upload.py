"""Sending images to one node's agent: asking what it lacks, its layers from where it has them to, and loading them.

A broken connection is tried again, and goes on where the agent says that it broke off. What the agent refuses for good
(no room, not an operator) is not.
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
#: The engine may have gigabytes to unpack.
_LOAD_SECONDS: Final = 1800.0
_ASKED: Final = 3
_SENT: Final = 6
#: Saying the same again would be answered the same.
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
    """Saved images: the archive, what stands where in it, and by what name each is loaded."""

    path: Path
    index: ArchiveIndex
    names: dict[str, str]


class NodeUpload:
    """One node, and the images that it is to have."""

    def __init__(self, agent: AgentEndpoint, stub: AgentAsyncStub, images: Sequence[ImageDescription]) -> None:
        self.node = agent.node
        self._agent = agent
        self._stub = stub
        self._images = images

    async def ask(self) -> MissingImages:
        """What it lacks. CliError if it cannot be asked."""
        return await self._patiently(_ASKED, self._ask)

    async def bring(self, source: ImageArchive, bar: UploadBar) -> None:
        """Send and load what it lacks. CliError if that fails for good."""

        async def attempt() -> None:
            # Anew each time: how far each layer has come is what the agent says.
            lack = await self._ask()
            bar.begin(sum(source.index.layers[digest].size for digest in lack.layers), lack)
            for digest, offset in lack.layers.items():
                bar.skip(offset)
                await self._send(source.path, digest, source.index.layers[digest], offset, bar)
            for image in lack.images:
                await self._load(source, image)

        await self._patiently(_SENT, attempt)

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

    async def _patiently(self, attempts: int, step: Callable[[], Awaitable[T]]) -> T:
        retrying = AsyncRetrying(
            retry=retry_if_exception(_may_pass),
            stop=stop_after_attempt(attempts),
            wait=wait_exponential(multiplier=0.3, max=5.0) + wait_random(0, 0.3),
            reraise=True,
        )
        try:
            return await retrying(step)
        except grpc.aio.AioRpcError as error:
            raise call_error(self._agent, error) from error


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, grpc.aio.AioRpcError) and error.code() not in _TERMINAL


async def _pieces(path: Path, offset: int, size: int) -> AsyncIterator[bytes]:
    """``size`` bytes of a file; read on a thread, because a disk may be slow."""
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
