"""The API as it is served, over real mutual TLS and a real Docker Engine. What is assigned is made up."""

from __future__ import annotations

import asyncio
import datetime
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

import grpc.aio

from devopsellence.age import AgeIdentity
from devopsellence.agent_identity import server_name
from devopsellence.api.v1 import stored_pb2, workload_pb2
from devopsellence.api.v1.agent_pb2 import RunAnswer, RunRequest
from devopsellence.cli.agent.client import AgentEndpoint, connect, wait_accepted
from devopsellence.cli.certificates.pki import CertificateAuthority, CertificateRequest
from devopsellence.nodeagent.api.images import ImageService
from devopsellence.nodeagent.api.server import ApiServer, ListenOptions
from devopsellence.nodeagent.assignments import AssignmentState, Assignments
from devopsellence.nodeagent.docker import names as naming
from devopsellence.nodeagent.docker.engine import DockerEngine, EngineCallbacks
from devopsellence.nodeagent.plan.spec import Desired, resolve_assignment
from devopsellence.nodeagent.secrets import SecretDecrypter
from devopsellence.nodeagent.tls import CertificateFiles
from devopsellence.store.keys import EnvironmentRef
from devopsellence.store.settings import Settings
from tests.support.agent import docker
from tests.support.docker import remove
from tests.support.images import small_image

if TYPE_CHECKING:
    from devopsellence.api.v1.agent_pb2_grpc import AgentAsyncStub

    Call: TypeAlias = grpc.aio.StreamStreamCall[RunRequest, RunAnswer]

ENV = EnvironmentRef("acme", "shop", "production")
NODE = "n1"


class Pki:
    """An authority, and certificates of it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.authority = folder / "ca.crt"
        self.now = datetime.datetime.now(datetime.UTC)
        self._ca = CertificateAuthority.create("authority of a test", self.now)
        self.authority.write_bytes(self._ca.issued.certificate)

    def files(self, common_name: str, *names: str, age: int = 0, file: str = "") -> CertificateFiles:
        """A certificate, made ``age`` days ago, in place of the one in ``file`` if that is given."""
        made = self._ca.issue(CertificateRequest(common_name, names), self.now - datetime.timedelta(days=age))
        stem = self._folder / (file or uuid.uuid4().hex)
        made.write(stem.with_suffix(".crt"), stem.with_suffix(".key"))
        return CertificateFiles(self.authority, stem.with_suffix(".crt"), stem.with_suffix(".key"))

    def node(self, uid: str) -> CertificateFiles:
        """The certificate that the agent of a machine answers with; anew, each time."""
        return self.files(f"node:{uid}", server_name(uid), file=f"node-{uid}")


def settings(files: CertificateFiles) -> Settings:
    """What a command line that has this certificate would use."""
    return Settings(("127.0.0.1:1",), ca_cert=files.authority, cert=files.certificate, key=files.key)


@dataclass
class Following:
    """Stands in for :class:`Assignments`: what a test says is assigned."""

    wants: dict[EnvironmentRef, Desired] = field(default_factory=dict)
    unread: str = ""

    @property
    def environments(self) -> set[EnvironmentRef]:
        return set(self.wants)

    def refresh(self, env: EnvironmentRef) -> AssignmentState:
        return AssignmentState(self.wants.get(env))


class NoImages:
    """There are none by this API."""


@dataclass
class Place:
    """One node: its engine's containers, and its API."""

    engine: DockerEngine
    following: Following
    uid: str
    pki: Pki
    address: str = ""

    def assign(self, *services: workload_pb2.Service) -> Desired:
        """What is assigned from now on."""
        assignment = stored_pb2.Assignment(
            node=NODE,
            node_uid=self.uid,
            organization=ENV.organization,
            project=ENV.project,
            environment=ENV.environment,
            generation=1,
            release=1,
            services=services,
        )
        want = self.following.wants[ENV] = resolve_assignment(assignment, ENV, self.uid)
        return want

    def run(self, service: str, *command: str, name: str = "", release: int = 1) -> str:
        """A service's container, as the agent would make it; its id."""
        labels = {
            **naming.environment_labels(NODE, self.uid, ENV),
            naming.LABEL_SERVICE: service,
            naming.LABEL_RELEASE: str(release),
        }
        given = [part for key, value in labels.items() for part in ("--label", f"{key}={value}")]
        named = ("--name", name) if name else ()
        return docker("run", "-d", *named, *given, small_image(), *command)

    async def start(self, service: str, *command: str, release: int = 1) -> str:
        """The same, once the agent has seen it."""
        made = await asyncio.to_thread(lambda: self.run(service, *command, release=release))
        await self.engine.refresh(made)
        return made

    def network(self) -> None:
        labels = naming.environment_labels(NODE, self.uid, ENV)
        given = [part for key, value in labels.items() for part in ("--label", f"{key}={value}")]
        docker("network", "create", *given, naming.network_name(self.uid, ENV))

    def client(self, files: CertificateFiles | None = None) -> AbstractAsyncContextManager[AgentAsyncStub]:
        """An operator's stub, or that of whoever has ``files``."""
        return connect(settings(files or self.pki.files("operator:ann")), AgentEndpoint(NODE, self.uid, self.address))

    def clean(self) -> None:
        remove(self.uid)


@asynccontextmanager
async def place(folder: Path, host: str = "unix:///var/run/docker.sock") -> AsyncIterator[Place]:
    """A node that answers, until the block ends."""
    uid = f"test-{uuid.uuid4().hex}"
    connected = asyncio.Event()
    engine = DockerEngine(host, uid, EngineCallbacks(lambda _env: None, lambda: None, lambda: connected.set()))
    made = Place(engine, Following(), uid, Pki(folder / "pki"))
    running = asyncio.create_task(engine.run())
    api = ApiServer(
        ListenOptions("127.0.0.1:0", "", made.pki.node(uid)),
        folder,
        stored_pb2.Heartbeat(node=NODE, uid=uid, agent_version="1.2.3", hostname="here"),
        engine,
        cast("Assignments", made.following),
        SecretDecrypter(AgeIdentity.generate()),
        cast("ImageService", NoImages()),
    )
    made.address = api.address
    try:
        await asyncio.wait_for(connected.wait(), 20)
        await api.start()
        yield made
    finally:
        await api.stop()
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        await asyncio.to_thread(made.clean)


@dataclass
class Ran:
    """How a command ended."""

    stdout: bytes = b""
    stderr: bytes = b""
    exit_code: int | None = None
    container: str = ""

    def take(self, answer: RunAnswer) -> None:
        match answer.WhichOneof("kind"):
            case "started":
                self.container = answer.started.container
            case "stdout":
                self.stdout += answer.stdout
            case "stderr":
                self.stderr += answer.stderr
            case "exit_code":
                self.exit_code = answer.exit_code


def command(service: str, *words: str, interactive: bool = False, tty: bool = False) -> RunRequest:
    """The start of a command."""
    request = RunRequest()
    request.start.environment = str(ENV)
    request.start.command.service = service
    request.start.command.command.extend(words)
    request.start.interactive, request.start.tty = interactive, tty
    return request


async def execute(stub: AgentAsyncStub, start: RunRequest, more: Sequence[RunRequest] = ()) -> Ran:
    """Run a command to its end with all of this input."""

    async def requests() -> AsyncIterator[RunRequest]:
        await wait_accepted(call)
        yield start
        for each in more:
            yield each

    ran, call = Ran(), stub.Exec(requests())
    async for answer in call:
        ran.take(answer)
    return ran


async def answered(call: Call) -> RunAnswer:
    """The next answer; fails if the call has ended."""
    answer = await call.read()
    assert isinstance(answer, RunAnswer), await call.code()
    return answer


async def first_output(call: Call, seen: Ran) -> None:
    """Until something is on stdout."""
    while not seen.stdout:
        seen.take(await answered(call))


async def rest(call: Call, seen: Ran) -> None:
    """Until the call has ended."""
    while isinstance(answer := await call.read(), RunAnswer):
        seen.take(answer)
