"""Containers of somebody else with the agent's labels or names; own ones after an upgrade or a lost folder."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator

import pytest

from devopsellence.api.v1 import stored_pb2
from devopsellence.nodeagent.docker import names
from devopsellence.nodeagent.plan.container_config import container_labels
from devopsellence.nodeagent.plan.spec import resolve_assignment
from tests.support.agent import ENV, AgentNode, Status, service_of, worker
from tests.support.docker import docker
from tests.support.images import small_image
from tests.support.run import run
from tests.support.until import eventually

pytestmark = pytest.mark.docker
SLEEP = ("sleep", "100000")


@pytest.fixture
def tag() -> Iterator[str]:
    """Name of an image made by the test."""
    name = f"devopsellence/foreign-{uuid.uuid4().hex[:8]}:1"
    yield name
    docker("rmi", "-f", name, check=False)


def reason(status: Status) -> str:
    return service_of(status, "cache").reason


async def settled_container(node: AgentNode) -> str:
    return service_of(await node.settled(), "cache").container


async def test_copies_of_a_container_are_left_alone_and_named(node: AgentNode, tag: str) -> None:
    node.start()
    await node.assign(worker("cache"))
    own = await settled_container(node)
    docker("commit", own, tag)
    copy = docker("run", "-d", tag, *SLEEP)
    name = docker("inspect", "-f", "{{.Name}}", copy).lstrip("/")
    await node.until("named", lambda status: f"container {name} carries the agent's labels" in reason(status))
    labels = {names.LABEL_NODE_UID: node.uid, names.LABEL_ENVIRONMENT: str(ENV), names.LABEL_SERVICE: "cache"}
    given = [f"--label={key}={value}" for key, value in labels.items()]
    other = docker("run", "-d", "--name", f"{name}-2", *given, small_image(), *SLEEP)
    await node.until("both", lambda status: reason(status).endswith("and 1 more"))
    assert set(node.containers()) == {own, copy[:12], other[:12]}
    # Also the next release does not touch them.
    await node.assign(worker("cache", A="1"), release=2)
    new = await settled_container(node)
    assert set(node.containers()) == {new, copy[:12], other[:12]}
    docker("rm", "-f", copy, other)
    await node.until("gone", lambda status: reason(status) == "")
    assert node.containers() == [new]


@pytest.mark.parametrize("label", ["task=release", "one_off=true", "router=abc", "environment=a/b/c", "nonce=1"])
async def test_labels_of_an_image_are_overridden(node: AgentNode, tag: str, label: str) -> None:
    run(["docker", "build", "-q", "-t", tag, "-"], stdin=f"FROM {small_image()}\nLABEL devopsellence.{label}\n")
    node.start()
    await node.assign(worker("cache", image=docker("inspect", "-f", "{{.Id}}", tag)))
    own = await settled_container(node)
    assert node.containers() == [own]
    actions = [line["action"] for line in node.lines("action")]
    assert sorted(actions) == ["create", "create_network", "start"]


async def test_own_container_is_known_by_any_name_and_its_name_may_be_taken(node: AgentNode, tag: str) -> None:
    node.start()
    await node.assign(worker("cache"))
    own = await settled_container(node)
    name = docker("inspect", "-f", "{{.Name}}", own).lstrip("/")
    docker("commit", own, tag)
    docker("rename", own, f"{name}-mine")
    taker = docker("run", "-d", "--name", name, tag, *SLEEP)
    await node.until("named", lambda status: f"container {name} has a name that the agent gives" in reason(status))
    assert await settled_container(node) == own
    docker("rm", "-f", own)

    def recreated(status: Status) -> bool:
        return status.phase == Status.SETTLED and service_of(status, "cache").container not in ("", own)

    new = service_of(await node.until("recreated", recreated), "cache").container
    assert docker("inspect", "-f", "{{.Name}}", new) == f"/{name}-2"
    assert set(node.containers()) == {new, taker[:12]}
    docker("rm", "-f", taker)
    await node.until("gone", lambda status: reason(status) == "")


async def test_name_taken_by_a_container_without_labels(node: AgentNode) -> None:
    assignment = stored_pb2.Assignment(node=node.name, node_uid=node.uid, release=1, services=[worker("cache")])
    name = resolve_assignment(assignment, ENV, node.uid).services["cache"].name
    takers = [docker("create", "--name", taken, small_image(), *SLEEP) for taken in names.alternatives(name)]
    try:
        node.start()
        await node.assign(worker("cache"))
        await node.until("refused", lambda status: f"docker rename {name}" in reason(status))
        # It goes on by itself, without a wait, once one of the names is free.
        docker("rm", takers.pop())
        new = await settled_container(node)
        assert docker("inspect", "-f", "{{.Name}}", new) == f"/{name}-3"
        await node.until("named", lambda status: f"container {name} has a name" in reason(status))
    finally:
        docker("rm", "-f", *takers)


@pytest.mark.parametrize("damage", [None, b'{"conta'])
async def test_lost_ledger_restarts_nothing(node: AgentNode, tag: str, damage: bytes | None) -> None:
    node.start()
    await node.assign(worker("cache"))
    own = await settled_container(node)
    docker("commit", own, tag)
    copy = docker("run", "-d", tag, *SLEEP)
    await node.until("named", lambda status: reason(status) != "")
    node.kill()
    ledger = node.folder / "state" / "containers.json"
    if damage is None:
        ledger.unlink()
    else:
        ledger.write_bytes(damage)
    node.start()

    async def adopted() -> bool:
        try:
            return [entry["id"][:12] for entry in json.loads(ledger.read_bytes())["containers"]] == [own]
        except (OSError, ValueError):
            return False

    await eventually("adopted", adopted)
    await node.assign(worker("cache"), release=2)
    assert await settled_container(node) == own
    assert set(node.containers()) == {own, copy[:12]}
    assert docker("inspect", "-f", "{{.RestartCount}}", own) == "0"


async def test_container_of_version_0_1_is_adopted(node: AgentNode) -> None:
    assignment = stored_pb2.Assignment(node=node.name, node_uid=node.uid, release=1, services=[worker("cache")])
    desired = resolve_assignment(assignment, ENV, node.uid)
    labels = [
        f"--label={label}={value}"
        for label, value in container_labels(desired.services["cache"], desired).items()
        if label != names.LABEL_DEFAULTS
    ]
    name = desired.services["cache"].name
    await asyncio.to_thread(docker, "network", "create", *environment_labels(node), desired.network)
    old = docker(
        "run", "-d", "--stop-timeout", "0", "--name", name, "--network", desired.network, *labels, small_image(), *SLEEP
    )
    node.start()
    await node.assign(worker("cache"))
    assert await settled_container(node) == old[:12]
    assert node.containers() == [old[:12]]
    # And is replaced as any other.
    await node.assign(worker("cache", A="1"), release=2)
    new = await settled_container(node)
    assert node.containers() == [new]


def environment_labels(node: AgentNode) -> list[str]:
    labels = names.environment_labels(node.name, node.uid, ENV)
    return [f"--label={label}={value}" for label, value in labels.items()]
