"""Agent whose folder cannot be written or was damaged: what runs goes on, what is new fails and says why."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import pytest

from devopsellence.api.v1.stored_pb2 import Heartbeat
from tests.support.agent import AgentNode, Status, reports, service_of, worker
from tests.support.docker import docker
from tests.support.read_only import need_mounts
from tests.support.until import eventually

pytestmark = [pytest.mark.docker, pytest.mark.etcd]

_FULL = "No space left on device"


@pytest.fixture
def small(node: AgentNode) -> AgentNode:
    """Node whose agent has a disk of its own of 512 KiB."""
    need_mounts()
    state = node.folder / "state"
    state.mkdir()
    node.mounts = f"mount -t tmpfs -o size=512k,mode=700 none {state}"
    return node


def fill(node: AgentNode) -> Path:
    """Fill the agent's disk to the last byte; return the file to remove."""
    filler = node.state / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"\0" * 4096)
    assert shutil.disk_usage(filler.parent).free == 0
    return filler


async def folder_problem(node: AgentNode, text: str) -> Heartbeat | None:
    """Return the heartbeat once its problem has this text; "": no problem."""

    async def holds() -> Heartbeat | None:
        beat = await node.heartbeat()
        told = beat is not None and (text in beat.folder_problem if text else not beat.folder_problem)
        return beat if told else None

    return await eventually(f"the heartbeat tells {text!r}", holds)


async def exactly(node: AgentNode, containers: Iterable[str]) -> bool:
    """Return whether the node has these containers and no other."""
    return sorted(await asyncio.to_thread(node.containers)) == sorted(containers)


def failed(status: Status) -> bool:
    return status.phase == Status.FAILED


async def test_release_on_a_full_disk_fails_and_changes_nothing(small: AgentNode) -> None:
    node = small
    node.start()
    await node.assign(worker("a"), worker("db", volume="data"))
    before = {service.name: service.container for service in (await node.settled()).services}
    filler = fill(node)

    await node.assign(worker("a", V="2"), worker("db", volume="data", V="2"), worker("new"), release=2)
    status = await node.until("failed", failed)
    assert _FULL in status.reason
    assert {service.name: service.failed for service in status.services} == {"a": True, "db": True, "new": True}
    assert all(_FULL in service.reason for service in status.services)
    await folder_problem(node, _FULL)
    # Whatever had begun before the write failed is undone.
    await eventually("only these are left", lambda: exactly(node, before.values()))

    # A rollback settles, because nothing has to change for it.
    await node.assign(worker("a"), worker("db", volume="data"), release=1)
    status = await node.settled()
    assert {service.name: service.container for service in status.services} == before

    # What runs is looked after all the same.
    docker("kill", before["a"])
    await node.until("restarted", reports("a", restarts=1, container=before["a"], phase=status.services[0].RUNNING))

    # Now that the problem is known, nothing begins.
    await node.assign(worker("a", V="2"), worker("db", volume="data", V="2"), release=3)
    await node.until("failed", failed)
    assert await exactly(node, before.values())
    filler.unlink()
    status = await node.settled()
    assert {service.container for service in status.services}.isdisjoint(before.values())
    await folder_problem(node, "")


async def test_first_release_and_removal_on_a_full_disk_wait_for_room(small: AgentNode) -> None:
    node = small
    node.start()
    await node.assign(worker("a"))
    await node.settled()
    filler = fill(node)
    await node.assign(removed=True)
    status = await node.until("failed", failed)
    assert _FULL in status.reason
    assert len(node.containers("status=running")) == 1
    filler.unlink()
    await node.until("removed", lambda status: status.phase == Status.REMOVED)

    filler = fill(node)
    await node.assign(worker("a"))
    status = await node.until("failed", failed)
    assert service_of(status, "a").failed
    assert node.containers() == []
    filler.unlink()
    await node.settled()


async def test_container_removed_by_hand_on_a_full_disk_is_created_once_there_is_room(small: AgentNode) -> None:
    node = small
    node.start()
    await node.assign(worker("a"), worker("b"))
    before = {service.name: service.container for service in (await node.settled()).services}
    filler = fill(node)
    docker("rm", "-f", before["a"])
    refused = "its container cannot be created: the agent cannot write its folder"
    status = await node.until("refused", lambda status: refused in service_of(status, "a").reason)
    assert failed(status)
    assert service_of(status, "b").container == before["b"]
    assert node.containers() == [before["b"]]
    filler.unlink()
    after = {service.name: service.container for service in (await node.settled()).services}
    assert after["b"] == before["b"]
    assert after["a"] != before["a"]


async def test_agent_starts_on_a_read_only_folder_and_tells_of_it(node: AgentNode) -> None:
    need_mounts()
    node.start()
    await node.assign(worker("a"))
    before = service_of(await node.settled(), "a").container
    node.kill()
    state = node.folder / "state"
    node.mounts = f"mount --bind {state} {state} && mount -o remount,bind,ro {state}"
    node.start()
    await folder_problem(node, "Read-only file system): mount its disk so that it can be written")
    await node.assign(worker("a", V="2"), release=2)
    status = await node.until("failed", failed)
    assert service_of(status, "a").container == before
    assert node.containers("status=running") == [before]


async def test_damage_by_hand_is_repaired_while_the_agent_runs(node: AgentNode) -> None:
    node.start()
    await node.assign(worker("a"))
    before = service_of(await node.settled(), "a").container
    files = {path: path.read_bytes() for path in node.state.rglob("*") if path.is_file() and path.name != "lock"}
    assert {path.parent.name for path in files} >= {"assignments", "memory", "status", "state"}
    for path in files:
        path.unlink()

    async def repaired() -> bool:
        return all(path.is_file() for path in files)

    await eventually("all files are there again", repaired)
    assert {path: path.read_bytes() for path in files} == files
    assert service_of(await node.settled(), "a").container == before
