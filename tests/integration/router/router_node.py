"""Router on this machine's Docker, services in this process, and clients."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TypeAlias

from devopsellence.agent_identity import server_name
from devopsellence.certificates import subjects
from devopsellence.certificates.authority import CertificateAuthority, CertificateRequest
from devopsellence.nodeagent.docker.client import DEFAULT_HOST
from devopsellence.nodeagent.docker.engine import DockerEngine, EngineCallbacks
from devopsellence.nodeagent.envoy.model import (
    BUILT_IN,
    Backend,
    Endpoint,
    IngressOptions,
    PeerTls,
    Route,
    RouterPeer,
    RoutingConfig,
    TlsCertificate,
)
from devopsellence.nodeagent.ingress.router import Router
from devopsellence.nodeagent.state_files import StateFiles
from devopsellence.nodeagent.util.threads import ThreadPool
from devopsellence.store.keys import EnvironmentRef
from tests.support.docker import docker, remove_node_objects
from tests.support.ports import free_port

REF = EnvironmentRef("acme", "shop", "production")
OTHER = EnvironmentRef("acme", "shop", "staging")
HOST = "shop.example"


@dataclass
class RouterNode:
    """Node whose router can be restarted on the same folder and ports."""

    folder: Path
    options: IngressOptions = field(
        default_factory=lambda: IngressOptions(image=BUILT_IN, http_port=free_port(), https_port=free_port())
    )
    uid: str = field(default_factory=lambda: f"test-{uuid.uuid4().hex}")
    #: TLS towards other nodes' routers, if any.
    peer_tls: PeerTls | None = None
    #: Address for other nodes' routers, as reported by the router.
    reachable: str = ""
    #: TLS towards other routers that Envoy uses, as reported.
    used: PeerTls | None = None

    def identify(self) -> RouterPeer:
        """Give the node a certificate and a peer port; return the node as a peer."""
        self.peer_tls = self.new_peer_tls()
        port = free_port()
        self.options = replace(self.options, peer_port=port, peer_address=f"127.0.0.1:{port}")
        return RouterPeer(self.uid, server_name(self.uid), "127.0.0.1", port)

    def new_peer_tls(self) -> PeerTls:
        """Return a new certificate for the router."""
        issued = authority().issue(subjects.router("n1", self.uid), datetime.now(UTC))
        return PeerTls(authority().trusted.decode(), issued.certificate.decode(), issued.key.decode())

    @contextlib.asynccontextmanager
    async def router(self) -> AsyncIterator[RunningRouter]:
        """Run the router as an agent does, from start to end."""
        changed = asyncio.Event()
        routers: list[Router] = []
        files = StateFiles(self.folder)
        callbacks = EngineCallbacks(
            changed=lambda _env: None,
            image=lambda: None,
            connection=lambda: routers[0].engine_connected() if routers else None,
            router=lambda: routers[0].container_changed() if routers else None,
        )
        engine = DockerEngine(DEFAULT_HOST, self.uid, callbacks)
        disk = ThreadPool(1, "test-disk")

        def reachable(address: str) -> None:
            self.reachable = address
            changed.set()

        def peer_tls_used(tls: PeerTls) -> None:
            self.used = tls
            changed.set()

        router = Router(
            "n1",
            self.uid,
            engine,
            self.folder / "envoy",
            self.options,
            disk,
            lambda _env: changed.set(),
            reachable=reachable,
            peer_tls_used=peer_tls_used,
            files=files,
        )
        if self.peer_tls is not None:
            router.set_peer_tls(self.peer_tls)
        routers.append(router)
        await router.load()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(engine.run()), group.create_task(router.run())]
            try:
                yield RunningRouter(router, engine, changed, files, disk)
            finally:
                for task in tasks:
                    task.cancel()

    def containers(self) -> list[str]:
        """Return the short ids of this node's containers, running or not."""
        return docker("ps", "-aq", "--filter", f"label=devopsellence.node_uid={self.uid}").split()

    def clean(self) -> None:
        """Remove everything of this node."""
        remove_node_objects(self.uid)


@dataclass
class RunningRouter:
    """A running router."""

    router: Router
    engine: DockerEngine
    changed: asyncio.Event
    #: Of the node's folder; a keeper of an agent would check them.
    files: StateFiles
    #: The router's thread for files.
    disk: ThreadPool

    async def until(self, what: str, holds: Callable[[], object], *, seconds: float = 60.0) -> None:
        """Wait for a change reported by the router; fail with status and held containers."""
        try:
            async with asyncio.timeout(seconds):
                while not holds():
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            state = self.router.status(REF), self.router.held(REF)
            raise AssertionError(f"{what}: not within {seconds:.0f} s; {state}") from None

    async def serves(self) -> None:
        await self.until("it serves", lambda: self.router.status(REF).serving)


def routed(*services: Service, **more: object) -> RoutingConfig:
    """Return a configuration that routes :data:`HOST` to these services."""
    plain = RoutingConfig(
        REF,
        (HOST,),
        (Route(HOST, "/", "web", "http"),),
        (Backend("web", "http", tuple(sorted(service.endpoint for service in services))),),
    )
    return replace(plain, **more)  # type: ignore[arg-type]


@cache
def authority() -> CertificateAuthority:
    """An issuing authority, as in a cluster: its certificates come with a chain."""
    now = datetime.now(UTC)
    return CertificateAuthority.create("tests of the router", now).create_issuing("tests of the router, issuing", now)


@cache
def certificate() -> dict[str, TlsCertificate]:
    """Return a certificate for :data:`HOST`, by host."""
    issued = authority().issue(CertificateRequest(HOST, (HOST,)), datetime.now(UTC))
    return {HOST: TlsCertificate("ab", issued.certificate.decode(), issued.key.decode())}


@dataclass
class Service:
    """Small HTTP service. ``/slow`` responds once :attr:`release` is set; an upgraded connection echoes."""

    name: str
    port: int
    release: asyncio.Event = field(default_factory=asyncio.Event)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    requests: int = 0
    open: dict[asyncio.Task[None], asyncio.StreamWriter] = field(default_factory=dict)

    async def close(self) -> None:
        """Close all connections."""
        self.release.set()
        for writer in self.open.values():
            writer.close()
        if self.open:
            await asyncio.wait(self.open)

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.name, "127.0.0.1", self.port)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection."""
        task = asyncio.current_task()
        assert task is not None
        self.open[task] = writer
        try:
            await self._answer(reader, writer)
        finally:
            writer.close()
            del self.open[task]

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                self.requests += 1
                if b"upgrade: websocket" in head:
                    writer.write(b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
                    self.begun.set()
                    while chunk := await reader.read(100):
                        writer.write(chunk)
                    break
                if head.startswith(b"get /slow "):
                    self.begun.set()
                    await self.release.wait()
                body = self.name.encode()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
                await writer.drain()


@contextlib.asynccontextmanager
async def service(name: str) -> AsyncIterator[Service]:
    """Run a service whose responses are its name."""
    running = Service(name, 0)
    server = await asyncio.start_server(running.answer, "127.0.0.1", 0)
    running.port = server.sockets[0].getsockname()[1]
    try:
        yield running
    finally:
        server.close()
        await running.close()


class Client:
    """Client with a single persistent connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self, path: str = "/") -> tuple[int, str]:
        """Send a GET request; return status and body."""
        reader, writer = await self.open()
        writer.write(f"GET {path} HTTP/1.1\r\nhost: {HOST}\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length: ")[2].split()[0])
        body = (await reader.readexactly(length)).decode()
        if "connection: close" in head:
            self.close()
        return int(head.split()[1]), body

    async def upgrade(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Upgrade the connection, as a WebSocket client does."""
        reader, writer = await self.open()
        writer.write(
            f"GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
            "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101"), head
        return reader, writer

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return the connection, opened if needed."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        return self._streams

    def close(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


#: A new client of the node's router.
Connect: TypeAlias = Callable[[], Client]
