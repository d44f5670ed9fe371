"""A router on this machine's engine, services to route to in this process, and clients."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TypeAlias, TypeVar

from devopsellence.agent_identity import server_name
from devopsellence.cli.certificates.pki import CertificateAuthority, CertificateRequest
from devopsellence.nodeagent.docker.client import DEFAULT_HOST
from devopsellence.nodeagent.docker.engine import DockerEngine, EngineCallbacks
from devopsellence.nodeagent.envoy.model import (
    BUILT_IN,
    Backend,
    Endpoint,
    IngressOptions,
    Route,
    RouterPeer,
    RoutingConfig,
    TlsCertificate,
)
from devopsellence.nodeagent.ingress.router import Router
from devopsellence.nodeagent.tls import CertificateFiles
from devopsellence.nodeagent.util.threads import ThreadPool
from devopsellence.store.keys import EnvironmentRef
from tests.support.docker import remove

T = TypeVar("T")
ENV = EnvironmentRef("acme", "shop", "production")
OTHER = EnvironmentRef("acme", "shop", "staging")
HOST = "shop.example"


def docker(*args: str) -> str:
    """What ``docker ARGS`` prints."""
    done = subprocess.run(["docker", *args], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


@dataclass
class Node:
    """A node whose router can be started again and again on the same folder and ports."""

    folder: Path
    options: IngressOptions = field(
        default_factory=lambda: IngressOptions(image=BUILT_IN, http_port=free_port(), https_port=free_port())
    )
    uid: str = field(default_factory=lambda: f"test-{uuid.uuid4().hex}")
    #: The node's own, where it has one.
    certificate: CertificateFiles | None = None
    #: Where other nodes' routers reach this one, as it says itself.
    reachable: str = ""

    def identify(self) -> RouterPeer:
        """Give the node a certificate of its own, and have it answer other nodes; where they reach it."""
        issued = authority().issue(CertificateRequest(f"node:{self.uid}", (server_name(self.uid),)), datetime.now(UTC))
        self.certificate = CertificateFiles(*(self.folder / name for name in ("ca.pem", "cert.pem", "key.pem")))
        self.certificate.authority.write_bytes(authority().issued.certificate)
        self.certificate.certificate.write_bytes(issued.certificate)
        self.certificate.key.write_bytes(issued.key)
        port = free_port()
        self.options = replace(self.options, peer_port=port, peer_address=f"127.0.0.1:{port}")
        return RouterPeer(self.uid, server_name(self.uid), "127.0.0.1", port)

    @contextlib.asynccontextmanager
    async def router(self) -> AsyncIterator[Routing]:
        """An agent's part of it, from start to end."""
        changed = asyncio.Event()
        made: list[Router] = []
        callbacks = EngineCallbacks(
            changed=lambda _env: None,
            image=lambda: None,
            connection=lambda: made[0].engine_connected() if made else None,
            router=lambda: made[0].container_changed() if made else None,
        )
        engine = DockerEngine(DEFAULT_HOST, self.uid, callbacks)
        disk = ThreadPool(1, "test-disk")

        def reachable(address: str) -> None:
            self.reachable = address
            changed.set()

        router = Router(
            "n1",
            self.uid,
            engine,
            self.folder / "envoy",
            self.options,
            disk,
            lambda _env: changed.set(),
            certificate=self.certificate,
            reachable=reachable,
        )
        made.append(router)
        await router.load()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(engine.run()), group.create_task(router.run())]
            try:
                yield Routing(router, engine, changed)
            finally:
                for task in tasks:
                    task.cancel()

    def containers(self) -> list[str]:
        """Short ids of this node's containers, running or not."""
        return docker("ps", "-aq", "--filter", f"label=devopsellence.node_uid={self.uid}").split()

    def clean(self) -> None:
        """Leave nothing behind."""
        remove(self.uid)


@dataclass
class Routing:
    """A router that runs."""

    router: Router
    engine: DockerEngine
    changed: asyncio.Event

    async def until(self, what: str, holds: Callable[[], object], *, seconds: float = 60.0) -> None:
        """Wait for what the router tells of; fails with how it stands."""
        try:
            async with asyncio.timeout(seconds):
                while not holds():
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            stands = self.router.status(ENV), self.router.held(ENV)
            raise AssertionError(f"{what}: not within {seconds:.0f} s; {stands}") from None

    async def serves(self) -> None:
        await self.until("it serves", lambda: self.router.status(ENV).serving)


def site(*services: Service, **more: object) -> RoutingConfig:
    """The site of :data:`HOST`, which leads to these."""
    plain = RoutingConfig(
        ENV,
        (HOST,),
        (Route(HOST, "/", "web", "http"),),
        (Backend("web", "http", tuple(sorted(each.endpoint for each in services))),),
    )
    return replace(plain, **more)  # type: ignore[arg-type]


@cache
def authority() -> CertificateAuthority:
    return CertificateAuthority.create("tests of the router", datetime.now(UTC))


@cache
def certificate() -> dict[str, TlsCertificate]:
    """One for :data:`HOST`."""
    made = authority().issue(CertificateRequest(HOST, (HOST,)), datetime.now(UTC))
    return {HOST: TlsCertificate("ab", made.certificate.decode(), made.key.decode())}


@dataclass
class Service:
    """A small HTTP service. ``/slow`` answers when :attr:`release` is set; an upgrade is echoed."""

    name: str
    port: int
    release: asyncio.Event = field(default_factory=asyncio.Event)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    requests: int = 0
    open: dict[asyncio.Task[None], asyncio.StreamWriter] = field(default_factory=dict)

    async def close(self) -> None:
        """End all connections."""
        self.release.set()
        for writer in self.open.values():
            writer.close()
        if self.open:
            await asyncio.wait(self.open)

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.name, "127.0.0.1", self.port)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
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
    """A service that answers with its name."""
    made = Service(name, 0)
    server = await asyncio.start_server(made.answer, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        await made.close()


class Client:
    """One connection that is kept for as many requests as are made."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self, path: str = "/") -> tuple[int, str]:
        """Status and body."""
        reader, writer = await self.open()
        writer.write(f"GET {path} HTTP/1.1\r\nhost: {HOST}\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length: ")[2].split()[0])
        body = (await reader.readexactly(length)).decode()
        if "connection: close" in head:
            self.close()
        return int(head.split()[1]), body

    async def upgrade(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A WebSocket's connection, as far as a proxy is concerned."""
        reader, writer = await self.open()
        writer.write(
            f"GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
            "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101"), head
        return reader, writer

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """The connection."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        return self._streams

    def close(self) -> None:
        """End the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


#: A new client of the node's router.
Connect: TypeAlias = Callable[[], Client]


async def eventually(what: str, look: Callable[[], Awaitable[T]], *, seconds: float = 60.0) -> T:
    """The first truthy value of ``look``; while it raises OSError or ends early it is asked again."""
    seen: object = None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while True:
                try:
                    found = await look()
                    if found:
                        return found
                    seen = found
                except (OSError, asyncio.IncompleteReadError) as error:
                    seen = error
                await asyncio.sleep(0.05)
    raise AssertionError(f"{what}: not within {seconds:.0f} s; last: {seen!r}")
