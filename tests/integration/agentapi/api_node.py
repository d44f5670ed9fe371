"""Node with the API of the agent on a real Docker Engine, over mutual TLS, and assignments made up by the test."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

import grpc.aio

from devopsellence.access.policy import AccessPolicy
from devopsellence.access.rights import FULL_ROLES, Rights, record_of
from devopsellence.age import AgeIdentity, encrypt
from devopsellence.api.v1 import stored_pb2, workload_pb2
from devopsellence.api.v1.agent_pb2 import RunAnswer, RunRequest
from devopsellence.api.v1.audit_pb2 import AuditEntry
from devopsellence.cli.agent.client import AgentEndpoint, connect, wait_accepted
from devopsellence.nodeagent.access import AccessState
from devopsellence.nodeagent.api.images import ImageService
from devopsellence.nodeagent.api.server import ApiServer, ListenOptions
from devopsellence.nodeagent.assignments import Assignments, AssignmentState
from devopsellence.nodeagent.docker import names as naming
from devopsellence.nodeagent.docker.engine import DockerEngine, EngineCallbacks
from devopsellence.nodeagent.plan.spec import Desired, resolve_assignment
from devopsellence.nodeagent.secrets import SecretDecrypter
from devopsellence.server_certificate import CertificateFiles
from devopsellence.store.keys import EnvironmentRef
from devopsellence.store.settings import Settings
from tests.support.authority import Authority, settings_with
from tests.support.docker import docker, remove_node_objects
from tests.support.images import small_image

if TYPE_CHECKING:
    from devopsellence.api.v1.agent_pb2_grpc import AgentAsyncStub

    Call: TypeAlias = grpc.aio.StreamStreamCall[RunRequest, RunAnswer]

ENV = EnvironmentRef("acme", "shop", "production")
NODE = "n1"


def settings(files: CertificateFiles) -> Settings:
    """Return the settings of a command line with this certificate."""
    return settings_with(Settings(("127.0.0.1:1",)), files)


@dataclass
class FakeAssignments:
    """Stand-in for :class:`Assignments`, filled by the test."""

    desired: dict[EnvironmentRef, Desired] = field(default_factory=dict)
    #: Of single assignments, and of all.
    problems: dict[EnvironmentRef, str] = field(default_factory=dict)
    problem: str = ""

    @property
    def environments(self) -> set[EnvironmentRef]:
        return {*self.desired, *self.problems}

    def get(self, ref: EnvironmentRef) -> AssignmentState:
        return AssignmentState(self.desired.get(ref), self.problems.get(ref, ""))


class FakeAccess:
    """Stand-in for the agent's access data, with what the test grants: by default everything to ann and bob."""

    def __init__(self) -> None:
        full = Rights(frozenset((role, "*") for role in FULL_ROLES))
        self.policy: AccessPolicy | None = AccessPolicy({name: record_of(name, full) for name in ("ann", "bob")})

    def state(self) -> AccessState:
        return AccessState("", "gateways known: 2", "")


class AuditEntries(list[AuditEntry]):
    """Entries of the audit trail, in place of the agent's reporter."""

    def add(self, entry: AuditEntry) -> None:
        self.append(entry)


class NoImages:
    """Stand-in for the image service, without calls."""


@dataclass
class ApiNode:
    """Node with containers on the engine and an API at ``address``."""

    engine: DockerEngine
    assignments: FakeAssignments
    uid: str
    authority: Authority
    access: FakeAccess
    identity: AgeIdentity = field(default_factory=AgeIdentity.generate)
    audit: AuditEntries = field(default_factory=AuditEntries)
    address: str = ""
    changed: Callable[[], None] = lambda: None

    def permit(self, policy: AccessPolicy) -> None:
        """Replace the policy, as the agent does when a record of access changes."""
        self.access.policy = policy
        self.changed()

    def assign(self, *services: workload_pb2.Service, secrets: Mapping[str, bytes] | None = None) -> Desired:
        """Assign these services in place of the services before; ``secrets`` are those of the first."""
        sealed = [
            stored_pb2.SealedSecret(
                service=services[0].name, name=name, version=1, age=encrypt(value, [self.identity.recipient])
            )
            for name, value in (secrets or {}).items()
        ]
        assignment = stored_pb2.Assignment(
            node=NODE,
            node_uid=self.uid,
            organization=ENV.organization,
            project=ENV.project,
            environment=ENV.environment,
            generation=1,
            release=1,
            services=services,
            secrets=sealed,
        )
        desired = self.assignments.desired[ENV] = resolve_assignment(assignment, ENV, self.uid)
        return desired

    def run(self, service: str, *command: str, release: int = 1) -> str:
        """Start a container of a service with the name and labels that the agent sets; return the id."""
        spec_hash = uuid.uuid4().hex
        labels = {
            **naming.environment_labels(NODE, self.uid, ENV),
            naming.LABEL_SERVICE: service,
            naming.LABEL_HASH: spec_hash,
            naming.LABEL_RELEASE: str(release),
        }
        labelled = [part for key, value in labels.items() for part in ("--label", f"{key}={value}")]
        name = naming.container_name(self.uid, ENV, service, spec_hash)
        return docker("run", "-d", "--name", name, *labelled, small_image(), *command)

    async def start(self, service: str, *command: str, release: int = 1) -> str:
        """Start a container as :meth:`run` does; return the id once the engine's cache knows the container."""
        container = await asyncio.to_thread(lambda: self.run(service, *command, release=release))
        await self.engine.refresh(container)
        return container

    def network(self) -> None:
        labels = naming.environment_labels(NODE, self.uid, ENV)
        labelled = [part for key, value in labels.items() for part in ("--label", f"{key}={value}")]
        docker("network", "create", *labelled, naming.network_name(self.uid, ENV))

    def client(self, files: CertificateFiles | None = None) -> AbstractAsyncContextManager[AgentAsyncStub]:
        """Return a stub with the certificate ``files``, by default an operator's."""
        return connect(
            settings(files or self.authority.issue("operator:ann")), AgentEndpoint(NODE, self.uid, self.address)
        )

    def clean(self) -> None:
        remove_node_objects(self.uid)


@asynccontextmanager
async def api_node(folder: Path, host: str = "unix:///var/run/docker.sock") -> AsyncIterator[ApiNode]:
    """Run a node with an API until the block ends."""
    uid = f"test-{uuid.uuid4().hex}"
    connected = asyncio.Event()
    engine = DockerEngine(host, uid, EngineCallbacks(lambda _env: None, lambda: None, lambda: connected.set()))
    node = ApiNode(engine, FakeAssignments(), uid, Authority(folder / "pki"), FakeAccess())
    running = asyncio.create_task(engine.run())
    api = ApiServer(
        ListenOptions("127.0.0.1:0", "", node.authority.issue_agent(uid)),
        folder,
        stored_pb2.Heartbeat(node=NODE, uid=uid, agent_version="1.2.3", hostname="here"),
        engine,
        cast("Assignments", node.assignments),
        SecretDecrypter(node.identity),
        cast("ImageService", NoImages()),
        node.access,
        node.audit,
    )
    node.address = api.address
    node.changed = api.rights.changed
    try:
        await asyncio.wait_for(connected.wait(), 20)
        await api.start()
        yield node
    finally:
        await api.stop()
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        await asyncio.to_thread(node.clean)


@dataclass
class CommandResult:
    """Output and exit code of a command."""

    stdout: bytes = b""
    stderr: bytes = b""
    exit_code: int | None = None
    container: str = ""

    def add(self, answer: RunAnswer) -> None:
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
    """Return the request that starts a command."""
    request = RunRequest()
    request.start.environment = str(ENV)
    request.start.command.service = service
    request.start.command.command.extend(words)
    request.start.interactive, request.start.tty = interactive, tty
    return request


async def execute(stub: AgentAsyncStub, start: RunRequest, more: Sequence[RunRequest] = ()) -> CommandResult:
    """Run a command to its end with ``more`` as further requests."""

    async def requests() -> AsyncIterator[RunRequest]:
        await wait_accepted(call)
        yield start
        for request in more:
            yield request

    result, call = CommandResult(), stub.Exec(requests())
    async for answer in call:
        result.add(answer)
    return result


async def next_answer(call: Call) -> RunAnswer:
    """Return the next answer; AssertionError if the call has ended."""
    answer = await call.read()
    assert isinstance(answer, RunAnswer), await call.code()
    return answer


async def first_output(call: Call, result: CommandResult) -> None:
    """Read answers until there is output on stdout."""
    while not result.stdout:
        result.add(await next_answer(call))


async def read_to_end(call: Call, result: CommandResult) -> None:
    """Read answers until the call has ended."""
    while isinstance(answer := await call.read(), RunAnswer):
        result.add(answer)


#: Script that prints each key of its terminal as hexadecimal.
SHOW_KEYS = "stty raw -echo; echo ready; while key=$(dd bs=1 count=1 2>/dev/null | od -An -tx1); do echo =$key=; done"


async def until_output(call: Call, *texts: str) -> None:
    """Read answers until stdout has had all ``texts``, in this order."""
    result = CommandResult()
    for text in texts:
        while text.encode() not in result.stdout:
            result.add(await next_answer(call))
        result.stdout = result.stdout.partition(text.encode())[2]


async def press_keys(call: Call, keys: Sequence[int]) -> None:
    """Type each key once the one before it has been printed by :data:`SHOW_KEYS`."""
    await until_output(call, "ready")
    for key in keys:
        await call.write(RunRequest(stdin=bytes([key])))
        await until_output(call, f" {key:02x}=")
