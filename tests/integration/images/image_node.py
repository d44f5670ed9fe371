"""A node as the direct path sees one: the agent's part for images on a real engine, behind real mutual TLS."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
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
from devopsellence.store.codec import encode
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef
from devopsellence.store.settings import Settings
from tests.support.fake_agent import AgentAuthority
from tests.support.images import IMAGE, small_image

ENV = EnvironmentRef("acme", "shop", "production")
BUILDER = DockerCli()
#: Ids of the images that were built here, to be removed in the end.
BUILT: list[str] = []


def docker(*args: str, check: bool = True) -> str:
    """What ``docker ARGS`` prints, on the engine that builds."""
    done = subprocess.run(["docker", *args], capture_output=True, text=True, check=False, timeout=100)
    assert not check or done.returncode == 0, f"docker {' '.join(args)}: {done.stderr}"
    return done.stdout.strip()


def build(*layers: bytes | int, lines: Sequence[str] = ()) -> str:
    """The id of an image on top of the small one, with one layer for each file: of these bytes, or of so many random
    ones; and for each of ``lines`` of a Dockerfile."""
    small_image()
    with tempfile.TemporaryDirectory() as folder:
        made = [f"FROM {IMAGE}"]
        for number, content in enumerate(layers):
            data = os.urandom(content) if isinstance(content, int) else content
            (Path(folder) / f"f{number}").write_bytes(data)
            made.append(f"COPY f{number} /f{number}")
        (Path(folder) / "Dockerfile").write_text("\n".join([*made, *lines]) + "\n")
        environ = {**os.environ, "DOCKER_BUILDKIT": "0"}
        subprocess.run(
            ["docker", "build", "-q", "--iidfile", f"{folder}/id", folder], env=environ, check=True, capture_output=True
        )
        BUILT.append((Path(folder) / "id").read_text().strip())
    return BUILT[-1]


def release(*images: str) -> stored_pb2.Release:
    """A draft with a worker for each image."""
    draft = stored_pb2.Release(organization="acme", project="shop", environment="production")
    for number, image in enumerate(images):
        service = draft.services.add(name=f"s{number}", kind=workload_pb2.Service.WORKER)
        service.image.pinned, service.image.reference, service.image.app = image, "app:latest", True
    return draft


class Told(Output):
    """Keeps what was said."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.said: list[tuple[str, dict[str, Any]]] = []
        self.warnings: list[str] = []

    def progress(self, operation: str, message: str, **data: Any) -> None:
        self.said.append((message, data))

    def warning(self, text: str) -> None:
        self.warnings.append(text)

    def sent(self, node: str) -> int:
        """How many bytes went to a node."""
        return sum(data["bytes"] for _, data in self.said if data.get("stage") == "sent" and data["node"] == node)


class CountingDocker(DockerCli):
    """Counts how often images were saved."""

    saves = 0

    async def save(self, images: Any, into: IO[bytes]) -> str:
        self.saves += 1
        return await super().save(images, into)


class Servicer:
    """Hands the calls on; ``breaks``: messages after which each of the next calls of SendLayer is cut, in turn."""

    def __init__(self, node: str, images: ImageService) -> None:
        self.node = node
        self.images = images
        self.breaks: list[int] = []
        #: What cuts; without it the call fails by itself.
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


class Receiving:
    """One node: its engine, its state folder, its API. An async context manager."""

    def __init__(self, node: str, host: str, folder: Path, authority: AgentAuthority) -> None:
        self.node = node
        self.uid = f"uid-{node}"
        self.staging = folder / "staging"
        self.changed = asyncio.Event()
        self.engine = DockerEngine(
            host, self.uid, EngineCallbacks(changed=lambda _: None, image=lambda: None, connection=self.changed.set)
        )
        self.garbage = ImageCollector(self.engine, folder / "images.json", ThreadPool(1, "disk"))
        self.images = ImageService(self.engine, LayerStaging(self.staging), self.garbage)
        self.servicer = Servicer(node, self.images)
        made = authority.issue_agent(folder, self.uid)
        self._credentials = grpc.ssl_server_credentials(
            [(made.key.read_bytes(), made.cert.read_bytes())], authority.ca_cert.read_bytes(), require_client_auth=True
        )
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
        add_AgentServicer_to_server(cast("AgentServicer", _Whole(self.servicer)), self._server)
        port = self._server.add_secure_port(self.address, self._credentials)
        self.address = f"127.0.0.1:{port}"
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    async def register(self, etcd: Etcd, *, alive: bool = True) -> stored_pb2.Node:
        """Write its records."""
        node = stored_pb2.Node(name=self.node, uid=self.uid, labels=["web", "worker"])
        await etcd.put(etcd.keys.node(self.node), encode(node))
        if alive:
            beat = stored_pb2.Heartbeat(node=self.node, uid=self.uid, api_address=self.address)
            await etcd.put(etcd.keys.heartbeat(self.node), encode(beat))
        return node

    def staged(self) -> list[str]:
        """Names of the staging folder's files."""
        return sorted(path.name for path in self.staging.iterdir()) if self.staging.exists() else []


class _Whole:
    """All calls of the service, of which only those about images are answered."""

    def __init__(self, servicer: Servicer) -> None:
        self._servicer = servicer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._servicer, name, None)


def operator(settings: Settings, authority: AgentAuthority) -> Settings:
    """``settings`` with an operator's certificate, for agents."""
    made = authority.issue("operator:ann")
    return replace(settings, ca_cert=authority.ca_cert, cert=made.cert, key=made.key)
