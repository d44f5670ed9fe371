"""Image downloads by peers: an image assigned to this node, by its id (service ``Peers``).

Images are the only content given to peers. The caller needs a node's certificate and the image id, known only from
assignments. Images not assigned to this node are refused, even if present on the engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final
from weakref import WeakValueDictionary

import grpc
import grpc.aio
import structlog

from devopsellence.access.certificate import certificate_of
from devopsellence.agent_identity import CHUNK_BYTES, IMAGE_BYTES
from devopsellence.api.v1.agent_pb2 import FetchImageRequest, ImagePart
from devopsellence.nodeagent.api import auth
from devopsellence.nodeagent.api.auth import CallRefused
from devopsellence.nodeagent.api.rights import CallRights
from devopsellence.nodeagent.assignments import Assignments
from devopsellence.nodeagent.docker import errors, streams
from devopsellence.nodeagent.docker.engine import SAVES, DockerEngine
from devopsellence.nodeagent.images.layers import is_project_tag
from devopsellence.nodeagent.images.staging import is_digest
from devopsellence.nodeagent.util.threads import ThreadPool

#: Limit of waiting calls; further callers try another peer. One caller has only some of them (``admission``).
MAX_WAITING: Final = 16
#: Longest time for a caller to take a piece of an image before others get its slot.
TAKE_SECONDS: Final = 10.0
_Code = grpc.StatusCode
_Context = grpc.aio.ServicerContext[Any, Any]
_log = structlog.get_logger()


class _CallerDisconnected(Exception):
    """The caller has disconnected."""


class _Slot:
    """Slot for a transfer. While the caller takes nothing, others may have it."""

    def __init__(self, slots: asyncio.Semaphore) -> None:
        self._slots = slots
        self._is_held = False

    async def take(self) -> None:
        await self._slots.acquire()
        self._is_held = True

    def give_back(self) -> None:
        if self._is_held:
            self._is_held = False
            self._slots.release()

    async def lend_during(self, writing: Awaitable[None]) -> None:
        """Wait for a write; if it takes long, give the slot back until it has ended.

        A write under way cannot be broken off: gRPC could not even say why the call ends.

        Raises:
            _CallerDisconnected: the write has failed.
        """
        write = asyncio.ensure_future(writing)
        try:
            done, _ = await asyncio.wait({write}, timeout=TAKE_SECONDS)
            if not done:
                self.give_back()
            await write
        except grpc.aio.InternalError as error:
            raise _CallerDisconnected from error
        finally:
            write.cancel()
        if not self._is_held:
            await self.take()


class PeerService:
    """Implements the service ``Peers``, with its method names."""

    def __init__(self, node: str, engine: DockerEngine, assignments: Assignments, rights: CallRights) -> None:
        self._node = node
        self._rights = rights
        self._engine = engine
        self._assignments = assignments
        self._slots = asyncio.Semaphore(SAVES)
        self._reading = ThreadPool(SAVES, "save")
        self._calls = 0
        #: By caller: who takes an image slowly, or not at all, delays only itself.
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def FetchImage(self, request: FetchImageRequest, context: _Context) -> None:  # noqa: N802 - the call's name
        try:
            identities = context.auth_context()
            caller = auth.node_name(identities)
            _log.info("API call", call="FetchImage", caller=caller, peer=context.peer(), image=request.image)
            self._check(request.image)
            size, name = await self._describe(request.image)
            await context.send_initial_metadata(((IMAGE_BYTES, str(size)),))
            async with self._rights.until_denied(certificate_of(identities)):
                count = await self._in_turn(caller, lambda slot: self._send(name, context, slot))
            _log.info("image sent", image=request.image, caller=caller, bytes=count)
        except _CallerDisconnected:
            _log.info("the caller has disconnected", call="FetchImage", image=request.image)
        except Exception as error:  # noqa: BLE001 - reported to the caller; bugs are logged
            refused = auth.refusal_of(error)
            if refused.code is _Code.INTERNAL:
                _log.exception("internal error in a call", call="FetchImage")
            await auth.abort(context, self._node, refused)

    def _check(self, image: str) -> None:
        if not is_digest(image):
            raise CallRefused(_Code.INVALID_ARGUMENT, "an image must be given by its id, sha256:<64 hex digits>")
        states = (self._assignments.get(ref).desired for ref in self._assignments.environments)
        if not any(state is not None and image in state.images for state in states):
            raise CallRefused(_Code.NOT_FOUND, f"node {self._node} is not assigned image {image}")

    async def _describe(self, image: str) -> tuple[int, str]:
        """Return the size of an image and the reference to export: a project tag if present, so that the peer receives
        the tag too, else the id."""
        try:
            size, tags = await self._engine.ask(lambda docker: docker.images.describe(image))
        except errors.ImageNotAvailable as error:
            raise CallRefused(_Code.NOT_FOUND, f"node {self._node} does not have image {image}") from error
        return size, next((tag for tag in sorted(tags) if is_project_tag(tag, image)), image)

    async def _in_turn(self, caller: str, send: Callable[[_Slot], Awaitable[int]]) -> int:
        """Wait for the caller's turn and a free slot, then return the result of ``send``."""
        if self._calls >= SAVES + MAX_WAITING:
            message = f"node {self._node} is sending images to too many peers"
            raise CallRefused(_Code.RESOURCE_EXHAUSTED, message)
        self._calls += 1
        slot = _Slot(self._slots)
        try:
            async with self._turns.setdefault(caller, asyncio.Lock()):
                await slot.take()
                return await send(slot)
        finally:
            slot.give_back()
            self._calls -= 1

    async def _send(self, name: str, context: _Context, slot: _Slot) -> int:
        """Send an image and return the number of bytes."""
        stream = await self._open(name)
        count = 0
        try:
            # Read a piece only after sending the previous: a slow peer slows the engine instead of filling memory.
            while data := await self._reading.run(lambda: stream.read(CHUNK_BYTES)):
                await slot.lend_during(context.write(ImagePart(data=data)))
                count += len(data)
        finally:
            # A read under way ends with the first, the connection to the engine with the second.
            stream.close()
            await asyncio.shield(self._reading.run(stream.release))
        return count

    async def _open(self, name: str) -> streams.ArchiveStream:
        """Return the archive of an image. If the caller leaves before the engine answers, it is closed then."""
        opening = asyncio.ensure_future(self._engine.save(lambda docker: streams.open_archive(docker, name)))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_discard)
            raise


def _discard(opening: asyncio.Future[streams.ArchiveStream]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().release()
