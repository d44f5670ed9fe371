"""Volumes that an image declares: their data survives replacements, and they go with the service."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from devopsellence.api.v1 import stored_pb2, workload_pb2
from devopsellence.nodeagent.docker import names
from devopsellence.nodeagent.plan.container_config import container_labels
from devopsellence.nodeagent.plan.spec import resolve_assignment
from tests.support.agent import ENV, AgentNode, Status, service_of, worker
from tests.support.docker import docker
from tests.support.images import small_image
from tests.support.run import run

pytestmark = pytest.mark.docker


@pytest.fixture
def image() -> Iterator[str]:
    """Id of an image that declares volumes at /data and /cache."""
    name = f"devopsellence/volumes-{uuid.uuid4().hex[:8]}:1"
    run(["docker", "build", "-q", "-t", name, "-"], stdin=f"FROM {small_image()}\nVOLUME /data /cache\n")
    yield docker("inspect", "-f", "{{.Id}}", name)
    docker("rmi", "-f", name, check=False)


def db(image: str, number: int, *, configured: bool = False) -> workload_pb2.Service:
    service = worker("db", image=image, N=str(number))
    if configured:
        service.volumes.add(source="db_volume_data", target="/data")
    return service


async def container(node: AgentNode) -> str:
    return service_of(await node.settled(), "db").container


def stored(identity: str, value: str | None = None) -> str:
    """Return what is in /data/k; write it first if given."""
    if value is not None:
        docker("exec", identity, "sh", "-c", f"echo {value} > /data/k")
    return docker("exec", identity, "cat", "/data/k")


def volumes(node: AgentNode) -> set[str]:
    return set(docker("volume", "ls", "-q", *node.labelled).split())


def volume(node: AgentNode, path: str) -> str:
    return names.volume_name(node.uid, ENV, f"db_volume_{path}")


async def test_data_survives_replacements_and_goes_with_the_service(node: AgentNode, image: str) -> None:
    node.start()
    await node.assign(db(image, 1), worker("other"))
    stored(await container(node), "kept")
    await node.assign(db(image, 2), worker("other"), release=2)
    second = await container(node)
    assert stored(second) == "kept"
    docker("rm", "-f", "-v", second)
    await node.until("recreated", lambda status: service_of(status, "db").container not in ("", second))
    assert stored(await container(node)) == "kept"
    assert volumes(node) == {volume(node, "data"), volume(node, "cache")}
    await node.assign(worker("other"), release=3)
    await node.settled()
    assert volumes(node) == set()


async def test_two_containers_never_share_the_volume(node: AgentNode, image: str) -> None:
    script = (
        "echo $N started >> /data/log; trap 'echo $N ended >> /data/log; exit 0' TERM; while :; do sleep 0.05; done"
    )
    node.start()
    for number in (1, 2):
        service = worker("db", "sh", "-c", script, image=image, N=str(number))
        service.stop_grace_period.FromSeconds(5)
        await node.assign(service, release=number)
        identity = await container(node)
    assert docker("exec", identity, "cat", "/data/log").split("\n") == ["1 started", "1 ended", "2 started"]


async def test_volume_configured_later_keeps_its_data_also_without_the_service(node: AgentNode, image: str) -> None:
    node.start()
    await node.assign(db(image, 1))
    stored(await container(node), "kept")
    await node.assign(db(image, 1, configured=True), release=2)
    assert stored(await container(node)) == "kept"
    await node.assign(removed=True)
    await node.until("removed", lambda status: status.phase == Status.REMOVED)
    assert volumes(node) == {volume(node, "data")}
    await node.assign(db(image, 1, configured=True), release=3)
    assert stored(await container(node)) == "kept"


async def test_anonymous_volumes_of_version_0_1_are_carried_over(node: AgentNode, image: str) -> None:
    assignment = stored_pb2.Assignment(node=node.name, node_uid=node.uid, release=1, services=[db(image, 1)])
    desired = resolve_assignment(assignment, ENV, node.uid)
    assigned = desired.services["db"]
    common = [f"--label={key}={value}" for key, value in names.environment_labels(node.name, node.uid, ENV).items()]
    labels = [f"--label={label}={value}" for label, value in container_labels(assigned, desired).items()]
    docker("network", "create", *common, desired.network)
    options = ["--stop-timeout", "0", "--name", assigned.name, "--network", desired.network, *labels]
    old = docker("run", "-d", *options, image, "sleep", "100000")
    stored(old, "kept")
    anonymous = docker("inspect", "-f", "{{range .Mounts}}{{.Name}} {{end}}", old).split()
    node.start()
    await node.assign(db(image, 1))
    assert await container(node) == old[:12]
    await node.assign(db(image, 2), release=2)
    assert stored(await container(node)) == "kept"
    assert set(docker("volume", "ls", "-q").split()) >= set(anonymous)
    # Configured as deploy suggests, also in a container that is created anew: the same volume.
    await node.assign(db(image, 3, configured=True), release=3)
    assert stored(await container(node)) == "kept"
    await node.assign(db(image, 4), release=4)
    assert stored(await container(node)) == "kept"
    await node.assign(removed=True)
    await node.until("removed", lambda status: status.phase == Status.REMOVED)
    assert not set(docker("volume", "ls", "-q").split()) & set(anonymous)


async def test_lost_ledger_loses_no_data(node: AgentNode, image: str) -> None:
    node.start()
    await node.assign(db(image, 1))
    stored(await container(node), "kept")
    node.kill()
    (node.folder / "state" / "containers.json").unlink()
    node.start()
    await node.assign(db(image, 2), release=2)
    assert stored(await container(node)) == "kept"
    await node.assign(removed=True)
    await node.until("removed", lambda status: status.phase == Status.REMOVED)
    assert volumes(node) == set()
