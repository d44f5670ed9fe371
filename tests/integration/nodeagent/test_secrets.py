"""Secrets on a real agent: encrypted for the node, decrypted only into the container."""

from __future__ import annotations

import asyncio
import base64
import re
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from devopsellence.age import AgeIdentity, encrypt, is_recipient
from devopsellence.api.v1 import stored_pb2, workload_pb2
from devopsellence.store.keys import REGISTRY
from tests.integration.nodeagent.test_pull import Registry
from tests.support.agent import AgentNode, ServiceStatus, reports, service_of, worker
from tests.support.docker import docker
from tests.support.until import eventually

pytestmark = pytest.mark.docker

SealedSecret = stored_pb2.SealedSecret


@pytest.fixture
def canary() -> str:
    """Unique secret value, to be searched for everywhere."""
    return f"canary-{uuid.uuid4().hex}"


async def recipient(node: AgentNode) -> str:
    """Return the age recipient in the agent's heartbeat."""

    async def reported_recipient() -> str:
        beat = await node.heartbeat()
        return beat.age_recipient if beat else ""

    return await eventually("a recipient", reported_recipient)


def refers(service: workload_pb2.Service, version: int = 1) -> workload_pb2.Service:
    service.secret_refs.add(name="PASSWORD", secret="DB_PASSWORD", version=version)
    return service


def sealed(value: bytes, to: str, version: int = 1, service: str = "a") -> stored_pb2.SealedSecret:
    return SealedSecret(service=service, name="DB_PASSWORD", version=version, age=encrypt(value, [to]))


def variables(node: AgentNode, container: str) -> list[str]:
    environment: list[str] = node.inspect(container)["Config"]["Env"]
    return environment


def told_of_itself(pid: int, canary: str) -> bool:
    """Return True if a process shows ``canary`` in the command line or environment."""
    return any(canary.encode() in Path(f"/proc/{pid}/{kind}").read_bytes() for kind in ("cmdline", "environ"))


async def test_secret_becomes_variable_and_appears_nowhere_else(node: AgentNode, canary: str) -> None:
    node.start("--debug")
    to = await recipient(node)
    assert is_recipient(to)
    service = refers(worker("a", PASSWORD="overridden", OTHER="kept"))
    await node.assign(service, secrets=[sealed(f"{canary}\n=ü".encode(), to)])
    status = await node.settled()
    environment = variables(node, service_of(status, "a").container)
    assert f"PASSWORD={canary}\n=ü" in environment
    assert "OTHER=kept" in environment
    assert "PASSWORD=overridden" not in environment
    # Neither in the agent's folder and log, nor in anything that it wrote, nor in its command line or environment.
    for path in [node.log, *(node.folder / "state").rglob("*")]:
        assert not path.is_file() or canary.encode() not in path.read_bytes(), path
    stored = await node.etcd.list(node.settings.prefix)
    assert len(stored.items) >= 3
    assert all(canary.encode() not in item.value for item in stored.items)
    assert not told_of_itself(node.pid, canary)


async def test_changed_secret_replaces_its_services_only(node: AgentNode, canary: str) -> None:
    node.start()
    to = await recipient(node)
    await node.assign(refers(worker("a")), worker("b"), secrets=[sealed(b"one", to)])
    before = await node.settled()
    # Sealed anew, as for another node: nothing changes.
    await node.assign(refers(worker("a")), worker("b"), secrets=[sealed(b"one", to)], release=2)
    assert (await node.settled()).services[0].container == service_of(before, "a").container
    both = [sealed(b"one", to), sealed(canary.encode(), to, 2)]
    await node.assign(refers(worker("a"), 2), worker("b"), secrets=both, release=3)
    after = await node.settled()
    assert service_of(after, "b").container == service_of(before, "b").container
    assert f"PASSWORD={canary}" in variables(node, service_of(after, "a").container)


async def test_missing_secret_is_named_and_old_container_serves(node: AgentNode) -> None:
    node.start()
    await node.assign(worker("a"), worker("b"))
    before = service_of(await node.settled(), "a").container
    await node.assign(refers(worker("a"), 3), worker("b"), release=2)
    service_status = service_of(await node.until("failed", reports("a", failed=True)), "a")
    assert service_status.reason == "secret DB_PASSWORD (version 3) was not sent to this node; run devopsellence deploy"
    assert service_status.container == before
    to = await recipient(node)
    await node.assign(refers(worker("a"), 3), worker("b"), release=3, secrets=[sealed(b"x", to, 3)])
    await node.settled()


@pytest.mark.parametrize(
    ("value", "says_why"),
    [
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"a\0b", "contains a NUL character"),
        (None, "it cannot be decrypted with the identity of age1"),
    ],
)
async def test_unusable_secret_affects_its_service_alone(node: AgentNode, value: bytes | None, says_why: str) -> None:
    node.start()
    to = await recipient(node)
    secret = sealed(b"x", AgeIdentity.generate().recipient) if value is None else sealed(value, to)
    await node.assign(refers(worker("a")), worker("b"), secrets=[secret])
    status = await node.until("backs off", reports("a", phase=ServiceStatus.BACKOFF))
    reason = service_of(status, "a").reason
    assert "secret DB_PASSWORD (version 1)" in reason
    assert says_why in reason
    await node.until("the other runs", reports("b", phase=ServiceStatus.RUNNING))


async def test_identity_is_created_once(node: AgentNode) -> None:
    node.start()
    first = await recipient(node)
    path = node.folder / "state" / "identity.age"
    assert path.stat().st_mode & 0o777 == 0o600
    node.kill(signal.SIGTERM)
    path.chmod(0o644)
    node.start()
    assert await recipient(node) == first
    assert path.stat().st_mode & 0o777 == 0o600
    node.kill(signal.SIGTERM)
    path.write_text("damaged")
    node.start()
    assert await asyncio.to_thread(node.ended) == 1
    assert "identity.age holds no age identity" in node.log.read_text()
    assert path.read_text() == "damaged"


async def test_secrets_on_disk_suffice_without_etcd(node: AgentNode, canary: str) -> None:
    """A missing container is recreated by another agent process from the encrypted secrets on disk."""
    node.start()
    to = await recipient(node)
    await node.assign(refers(worker("a")), secrets=[sealed(canary.encode(), to)])
    before = service_of(await node.settled(), "a").container
    node.kill()
    docker("rm", "-f", before)
    # An etcd that nobody answers for.
    node.start("--etcd-endpoints", "127.0.0.1:1")
    [container] = await node.runs(1)
    assert f"PASSWORD={canary}" in variables(node, container)


async def test_release_task_gets_secrets_of_service(node: AgentNode, canary: str) -> None:
    node.start()
    to = await recipient(node)
    task = workload_pb2.Task(
        name="release", service="a", command=["sh", "-c"], args=['test "$PASSWORD" = "$WANT"'], env={"WANT": canary}
    )
    task.env["PASSWORD"] = "overridden"
    await node.assign(task=task, task_service=refers(worker("a")), secrets=[sealed(canary.encode(), to)])
    status = await node.until("ended", lambda status: status.task.HasField("exit"))
    assert status.task.phase == stored_pb2.TaskStatus.SUCCEEDED


@pytest.fixture
def private(canary: str) -> Iterator[Registry]:
    """Registry whose password is the canary."""
    registry = Registry(login=f"robot:{canary}")
    registry.there.set()
    yield registry
    registry.server.shutdown()
    registry.server.server_close()
    docker("rmi", "-f", registry.pinned, check=False)


async def test_registry_password_goes_to_its_registry_only(node: AgentNode, private: Registry, canary: str) -> None:
    node.start("--debug")
    to = await recipient(node)
    where = stored_pb2.Registry(
        repository=private.repository, username="robot", password_secret="REGISTRY", password_version=1
    )
    password = SealedSecret(service=REGISTRY, name="REGISTRY", version=1, age=encrypt(canary.encode(), [to]))
    service = worker("a", image=private.pinned)
    elsewhere = stored_pb2.Registry()
    elsewhere.CopyFrom(where)
    elsewhere.repository = "registry.example/shop"
    await node.assign(service, registry=elsewhere, secrets=[password])
    status = await node.until("refused", reports("a", phase=ServiceStatus.BACKOFF))
    assert "cannot pull" in service_of(status, "a").reason
    sent = [base64.b64decode(login.removeprefix("Basic ")).decode() for login in private.logins]
    assert f"robot:{canary}" not in sent
    await node.assign(service, registry=where, release=2)
    missing = re.compile(r"secret REGISTRY \(version 1\) was not sent")
    await node.until("missing", lambda status: bool(missing.search(service_of(status, "a").reason)), seconds=60)
    docker("rmi", "-f", private.pinned, check=False)
    await node.assign(service, registry=where, release=3, secrets=[password])
    await node.settled(seconds=60)
    assert canary not in node.log.read_text()
