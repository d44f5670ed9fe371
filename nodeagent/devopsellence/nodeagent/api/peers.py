"""What other nodes' agents may ask: an image that this node is assigned, by its id (service ``Peers``).

Images are all that a node gives to another. Its caller must have a node's certificate and know the id, which only
assignments tell; what this node is not assigned it does not give, whatever else is on its engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc
import grpc.aio
import structlog

from devopsellence.agent_identity import CHUNK_BYTES, IMAGE_BYTES
from devopsellence.api.v1.agent_pb2 import FetchImageRequest, ImagePart
from devopsellence.nodeagent.api import auth
from devopsellence.nodeagent.api.auth import CallRefused
from devopsellence.nodeagent.assignments import Assignments
from devopsellence.nodeagent.docker import errors, streams
from devopsellence.nodeagent.docker.engine import SAVES, DockerEngine
from devopsellence.nodeagent.images.layers import is_project_tag
from devopsellence.nodeagent.images.staging import is_digest
from devopsellence.nodeagent.util.threads import ThreadPool

#: Callers that wait for their turn; more are sent to somebody else.
MAX_WAITING: Final = 16
_Code = grpc.StatusCode
_Context = grpc.aio.ServicerContext[Any, Any]
_log = structlog.get_logger()


class _CallerGone(Exception):
    """Nobody is there any more to be sent anything."""


class PeerService:
    """Answers the calls of ``Peers``, whose names its methods have."""

    def __init__(self, node: str, engine: DockerEngine, assignments: Assignments) -> None:
        self._node = node
        self._engine = engine
        self._assignments = assignments
        self._slots = asyncio.Semaphore(SAVES)
        self._reading = ThreadPool(SAVES, "save")
        self._calls = 0

    async def FetchImage(self, request: FetchImageRequest, context: _Context) -> None:  # noqa: N802 - the call's name
        try:
            caller = auth.node_name(context.auth_context())
            _log.info("called", call="FetchImage", caller=caller, peer=context.peer(), image=request.image)
            self._check(request.image)
            size, name = await self._described(request.image)
            await context.send_initial_metadata(((IMAGE_BYTES, str(size)),))
            count = await self._in_turn(lambda: self._send(name, context))
            _log.info("image sent", image=request.image, caller=caller, bytes=count)
        except _CallerGone:
            _log.info("the caller has gone", call="FetchImage", image=request.image)
        except Exception as error:  # noqa: BLE001 - the caller is told, and what is a bug is logged
            why = auth.refusal_of(error)
            if why.code is _Code.INTERNAL:
                _log.exception("a call failed in the agent itself", call="FetchImage")
            await auth.abort(context, self._node, why)

    def _check(self, image: str) -> None:
        if not is_digest(image):
            raise CallRefused(_Code.INVALID_ARGUMENT, "an image is named by its id, sha256:<64 hex digits>")
        wants = (self._assignments.look(env).want for env in self._assignments.environments)
        if not any(want is not None and image in want.images for want in wants):
            raise CallRefused(_Code.NOT_FOUND, f"node {self._node} is not assigned image {image}")

    async def _described(self, image: str) -> tuple[int, str]:
        """How large it is, and what to ask for: by a name that this project gives to it, if it has one, so that it
        arrives with it."""
        try:
            size, tags = await self._engine.ask(lambda docker: docker.images.describe(image))
        except errors.ImageNotAvailable as error:
            raise CallRefused(_Code.NOT_FOUND, f"node {self._node} does not have image {image} itself") from error
        return size, next((tag for tag in sorted(tags) if is_project_tag(tag, image)), image)

    async def _in_turn(self, send: Callable[[], Awaitable[int]]) -> int:
        """What ``send`` returns, once it is its turn."""
        if self._calls >= SAVES + MAX_WAITING:
            sentence = f"node {self._node} is sending images to too many others"
            raise CallRefused(_Code.RESOURCE_EXHAUSTED, sentence)
        self._calls += 1
        try:
            async with self._slots:
                return await send()
        finally:
            self._calls -= 1

    async def _send(self, name: str, context: _Context) -> int:
        """How many bytes it took."""
        stream = await self._engine.save(lambda docker: streams.open_archive(docker, name))
        count = 0
        try:
            # A piece is read when the one before has been taken: whoever reads slowly holds up the engine, not memory.
            while data := await self._reading.run(lambda: stream.read(CHUNK_BYTES)):
                try:
                    await context.write(ImagePart(data=data))
                except grpc.aio.InternalError as error:
                    raise _CallerGone from error
                count += len(data)
        finally:
            stream.close()
        return count
