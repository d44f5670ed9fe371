"""Node for uploads of images: the image part of the agent on a real engine, behind mutual TLS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, cast

import grpc
import grpc.aio

from devopsellence.api.v1 import agent_pb2, stored_pb2, workload_pb2
from devopsellence.api.v1.agent_pb2_grpc import AgentServicer, add_AgentServicer_to_server
from devopsellence.cli.images.docker_cli import DockerCli
from devopsellence.cli.output import Output
from devopsellence.nodeagent.api import auth
from devopsellence.nodeagent.api.images import ImageService
from devopsellence.nodeagent.docker.engine import DockerEngine, EngineCallbacks
from devopsellence.nodeagent.images.gc import ImageCollector
from devopsellence.nodeagent.images.staging import LayerStaging
from devopsellence.nodeagent.util.threads import ThreadPool
from devopsellence.server_certificate import ReloadingCertificate
from devopsellence.store.codec import encode
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef
from tests.support.authority import Authority

ENVIRONMENT = EnvironmentRef("acme", "shop", "production")
BUILDER = DockerCli()


def release(*images: str) -> stored_pb2.Release:
    """Return a draft of a release with a worker for each image."""
    draft = stored_pb2.Release(organization="acme", project="shop", environment="production")
    for number, image in enumerate(images):
        service = draft.services.add(name=f"s{number}", kind=workload_pb2.Service.WORKER)
        service.image.pinned, service.image.reference, service.image.app = image, "app:latest", True
    return draft


class RecordingOutput(Output):
    """Output that records progress and warnings."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.messages: list[tuple[str, dict[str, Any]]] = []
        self.warnings: list[str] = []

    def progress(self, operation: str, message: str, **data: Any) -> None:
        self.messages.append((message, data))

    def warning(self, text: str) -> None:
        self.warnings.append(text)

    def sent(self, node: str) -> int:
        """Return the number of bytes sent to a node."""
        return sum(data["bytes"] for _, data in self.messages if data.get("stage") == "sent" and data["node"] == node)


class CountingDocker(DockerCli):
    """Docker command that counts the saves."""

    saves = 0

    async def save(self, images: Any, into: IO[bytes]) -> str:
        self.saves += 1
        return await super().save(images, into)


class ImageServicer:
    """Agent API of images alone. ``breaks``: numbers of messages after which the next calls of SendLayer are cut."""

    def __init__(self, node: str, images: ImageService) -> None:
        self.node = node
        self.images = images
        self.breaks: list[int] = []
        #: Cuts the connection; None: the call fails by itself.
        self.cut: Callable[[], None] | None = None
        #: Offset and bytes of each SendLayer.
        self.received: list[tuple[int, int]] = []
        self.loads = 0

    async def FindImages(self, request: agent_pb2.FindImagesRequest, context: Any) -> agent_pb2.FindImagesAnswer:  # noqa: N802
        try:
            return await self.images.find(request)
        except Exception as error:  # noqa: BLE001 - as the agent's own
            await auth.abort(context, self.node, auth.refusal_of(error))

    async def SendLayer(  # noqa: N802
        self, requests: AsyncIterator[agent_pb2.SendLayerRequest], context: Any
    ) -> agent_pb2.SendLayerAnswer:
        try:
            return await self.images.send_layer(self._counted(requests))
        except Exception as error:  # noqa: BLE001 - as the agent's own
            await auth.abort(context, self.node, auth.refusal_of(error))

    async def LoadImage(self, request: agent_pb2.LoadImageRequest, context: Any) -> agent_pb2.LoadImageAnswer:  # noqa: N802
        self.loads += 1
        try:
            return await self.images.load(request)
        except Exception as error:  # noqa: BLE001 - as the agent's own
            await auth.abort(context, self.node, auth.refusal_of(error))

    async def _counted(
        self, requests: AsyncIterator[agent_pb2.SendLayerRequest]
    ) -> AsyncIterator[agent_pb2.SendLayerRequest]:
        left = self.breaks.pop(0) if self.breaks else -1
        offset, count = 0, 0
        self.received.append((0, 0))
        place = len(self.received) - 1
        async for request in requests:
            if request.WhichOneof("kind") == "start":
                offset = request.start.offset
            count += len(request.data)
            self.received[place] = (offset, count)
            yield request
            left -= 1
            if left == 0 and self.cut is not None:
                self.cut()
            elif left == 0:
                raise ConnectionResetError("cut by the test")


class ImageNode:
    """Node with an engine, a state folder and an API; an async context manager."""

    def __init__(self, node: str, host: str, folder: Path, authority: Authority) -> None:
        self.node = node
        self.uid = f"uid-{node}"
        self.staging = folder / "staging"
        self.changed = asyncio.Event()
        self.engine = DockerEngine(
            host, self.uid, EngineCallbacks(changed=lambda _: None, image=lambda: None, connection=self.changed.set)
        )
        self.garbage = ImageCollector(self.engine, folder / "images.json", ThreadPool(1, "disk"))
        self.images = ImageService(self.engine, LayerStaging(self.staging), self.garbage)
        self.servicer = ImageServicer(node, self.images)
        self._credentials = ReloadingCertificate(authority.issue_agent(self.uid)).credentials()
        self._server: grpc.aio.Server | None = None
        self._running: asyncio.Task[None] | None = None
        self.address = "127.0.0.1:0"

    async def __aenter__(self) -> Self:
        self._running = asyncio.create_task(self.engine.run())
        async with asyncio.timeout(30):
            while not self.engine.connected:
                await self.changed.wait()
                self.changed.clear()
        await self.serve()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()
        self.garbage.close()
        if self._running is not None:
            self._running.cancel()
            with suppress(asyncio.CancelledError):
                await self._running

    async def serve(self) -> None:
        self._server = grpc.aio.server(options=[("grpc.max_receive_message_length", 8 << 20)])
        add_AgentServicer_to_server(cast("AgentServicer", _AllCalls(self.servicer)), self._server)
        port = self._server.add_secure_port(self.address, self._credentials)
        self.address = f"127.0.0.1:{port}"
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    async def register(self, etcd: Etcd, *, alive: bool = True, lease: int = 0, problem: str = "") -> stored_pb2.Node:
        """Write the records of the node; the heartbeat is bound to ``lease``. ``problem``: why it has no engine."""
        node = stored_pb2.Node(name=self.node, uid=self.uid, labels=["web", "worker"])
        await etcd.put(etcd.keys.node(self.node), encode(node))
        if alive:
            beat = stored_pb2.Heartbeat(node=self.node, uid=self.uid, api_address=self.address)
            beat.problem, beat.without_engine = problem, bool(problem)
            await etcd.put(etcd.keys.heartbeat(self.node), encode(beat), lease=lease)
        return node

    def staged(self) -> list[str]:
        """Return the names of the files in the staging folder."""
        return sorted(path.name for path in self.staging.iterdir()) if self.staging.exists() else []


class _AllCalls:
    """Servicer with all calls of the API; only calls about images are answered."""

    def __init__(self, servicer: ImageServicer) -> None:
        self._servicer = servicer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._servicer, name, None)
