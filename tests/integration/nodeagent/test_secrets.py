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


async def recipient(machine: AgentNode) -> str:
    """Return the age recipient in the agent's heartbeat."""

    async def told() -> str:
        beat = await machine.heartbeat()
        return beat.age_recipient if beat else ""

    return await eventually("a recipient", told)


def refers(service: workload_pb2.Service, version: int = 1) -> workload_pb2.Service:
    service.secret_refs.add(name="PASSWORD", secret="DB_PASSWORD", version=version)
    return service


def sealed(value: bytes, to: str, version: int = 1, service: str = "a") -> stored_pb2.SealedSecret:
    return SealedSecret(service=service, name="DB_PASSWORD", version=version, age=encrypt(value, [to]))


def variables(machine: AgentNode, container: str) -> list[str]:
    found: list[str] = machine.inspect(container)["Config"]["Env"]
    return found


def told_of_itself(pid: int, canary: str) -> bool:
    """Return True if a process shows ``canary`` in the command line or environment."""
    return any(canary.encode() in Path(f"/proc/{pid}/{kind}").read_bytes() for kind in ("cmdline", "environ"))


async def test_secret_becomes_variable_and_appears_nowhere_else(machine: AgentNode, canary: str) -> None:
    machine.start("--debug")
    to = await recipient(machine)
    assert is_recipient(to)
    service = refers(worker("a", PASSWORD="overridden", OTHER="kept"))
    await machine.assign(service, secrets=[sealed(f"{canary}\n=ü".encode(), to)])
    status = await machine.settled()
    found = variables(machine, service_of(status, "a").container)
    assert f"PASSWORD={canary}\n=ü" in found
    assert "OTHER=kept" in found
    assert "PASSWORD=overridden" not in found
    # Neither in the agent's folder and log, nor in anything that it wrote, nor in its command line or environment.
    for path in [machine.log, *(machine.folder / "state").rglob("*")]:
        assert not path.is_file() or canary.encode() not in path.read_bytes(), path
    stored = await machine.etcd.list(machine.settings.prefix)
    assert len(stored.items) >= 3
    assert all(canary.encode() not in each.value for each in stored.items)
    assert not told_of_itself(machine.pid, canary)


async def test_changed_secret_replaces_its_services_only(machine: AgentNode, canary: str) -> None:
    machine.start()
    to = await recipient(machine)
    await machine.assign(refers(worker("a")), worker("b"), secrets=[sealed(b"one", to)])
    before = await machine.settled()
    # Sealed anew, as for another node: nothing changes.
    await machine.assign(refers(worker("a")), worker("b"), secrets=[sealed(b"one", to)], release=2)
    assert (await machine.settled()).services[0].container == service_of(before, "a").container
    both = [sealed(b"one", to), sealed(canary.encode(), to, 2)]
    await machine.assign(refers(worker("a"), 2), worker("b"), secrets=both, release=3)
    after = await machine.settled()
    assert service_of(after, "b").container == service_of(before, "b").container
    assert f"PASSWORD={canary}" in variables(machine, service_of(after, "a").container)


async def test_missing_secret_is_named_and_old_container_serves(machine: AgentNode) -> None:
    machine.start()
    await machine.assign(worker("a"), worker("b"))
    before = service_of(await machine.settled(), "a").container
    await machine.assign(refers(worker("a"), 3), worker("b"), release=2)
    found = service_of(await machine.until("failed", reports("a", failed=True)), "a")
    assert found.reason == "secret DB_PASSWORD (version 3) was not sent to this node; run devopsellence deploy"
    assert found.container == before
    to = await recipient(machine)
    await machine.assign(refers(worker("a"), 3), worker("b"), release=3, secrets=[sealed(b"x", to, 3)])
    await machine.settled()


@pytest.mark.parametrize(
    ("value", "says_why"),
    [
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"a\0b", "contains a NUL character"),
        (None, "it cannot be decrypted with the identity of age1"),
    ],
)
async def test_unusable_secret_affects_its_service_alone(
    machine: AgentNode, value: bytes | None, says_why: str
) -> None:
    machine.start()
    to = await recipient(machine)
    secret = sealed(b"x", AgeIdentity.generate().recipient) if value is None else sealed(value, to)
    await machine.assign(refers(worker("a")), worker("b"), secrets=[secret])
    status = await machine.until("backs off", reports("a", phase=ServiceStatus.BACKOFF))
    reason = service_of(status, "a").reason
    assert "secret DB_PASSWORD (version 1)" in reason
    assert says_why in reason
    await machine.until("the other runs", reports("b", phase=ServiceStatus.RUNNING))


async def test_identity_is_created_once(machine: AgentNode) -> None:
    machine.start()
    first = await recipient(machine)
    path = machine.folder / "state" / "identity.age"
    assert path.stat().st_mode & 0o777 == 0o600
    machine.kill(signal.SIGTERM)
    path.chmod(0o644)
    machine.start()
    assert await recipient(machine) == first
    assert path.stat().st_mode & 0o777 == 0o600
    machine.kill(signal.SIGTERM)
    path.write_text("damaged")
    machine.start()
    assert await asyncio.to_thread(machine.ended) == 1
    assert "identity.age holds no age identity" in machine.log.read_text()
    assert path.read_text() == "damaged"


async def test_secrets_on_disk_suffice_without_etcd(machine: AgentNode, canary: str) -> None:
    """A missing container is recreated by another agent process from the encrypted secrets on disk."""
    machine.start()
    to = await recipient(machine)
    await machine.assign(refers(worker("a")), secrets=[sealed(canary.encode(), to)])
    before = service_of(await machine.settled(), "a").container
    machine.kill()
    docker("rm", "-f", before)
    # An etcd that nobody answers for.
    machine.start("--etcd-endpoints", "127.0.0.1:1")
    [container] = await machine.runs(1)
    assert f"PASSWORD={canary}" in variables(machine, container)


async def test_release_task_gets_secrets_of_service(machine: AgentNode, canary: str) -> None:
    machine.start()
    to = await recipient(machine)
    task = workload_pb2.Task(
        name="release", service="a", command=["sh", "-c"], args=['test "$PASSWORD" = "$WANT"'], env={"WANT": canary}
    )
    task.env["PASSWORD"] = "overridden"
    await machine.assign(task=task, task_service=refers(worker("a")), secrets=[sealed(canary.encode(), to)])
    status = await machine.until("ended", lambda status: status.task.HasField("exit"))
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


async def test_registry_password_goes_to_its_registry_only(machine: AgentNode, private: Registry, canary: str) -> None:
    machine.start("--debug")
    to = await recipient(machine)
    where = stored_pb2.Registry(
        repository=private.repository, username="robot", password_secret="REGISTRY", password_version=1
    )
    password = SealedSecret(service=REGISTRY, name="REGISTRY", version=1, age=encrypt(canary.encode(), [to]))
    service = worker("a", image=private.pinned)
    elsewhere = stored_pb2.Registry()
    elsewhere.CopyFrom(where)
    elsewhere.repository = "registry.example/shop"
    await machine.assign(service, registry=elsewhere, secrets=[password])
    status = await machine.until("refused", reports("a", phase=ServiceStatus.BACKOFF))
    assert "cannot pull" in service_of(status, "a").reason
    sent = [base64.b64decode(login.removeprefix("Basic ")).decode() for login in private.logins]
    assert f"robot:{canary}" not in sent
    await machine.assign(service, registry=where, release=2)
    missing = re.compile(r"secret REGISTRY \(version 1\) was not sent")
    await machine.until("missing", lambda status: bool(missing.search(service_of(status, "a").reason)), seconds=60)
    docker("rmi", "-f", private.pinned, check=False)
    await machine.assign(service, registry=where, release=3, secrets=[password])
    await machine.settled(seconds=60)
    assert canary not in machine.log.read_text()
