"""Agent killed, etcd gone, engine killed: containers go on, and afterwards the desired state is reached."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from devopsellence.store.etcd import Etcd
from tests.support.agent import AgentNode, ServiceStatus, Status, reports, service_of, web, worker
from tests.support.docker import docker
from tests.support.etcd import EtcdServer
from tests.support.host import Host, need_host
from tests.support.need import need_docker, need_etcd
from tests.support.until import eventually

pytestmark = pytest.mark.docker


@pytest.fixture
async def alone(tmp_path: Path) -> AsyncIterator[tuple[AgentNode, EtcdServer]]:
    """Node with an etcd of its own."""
    need_docker()
    need_etcd()
    with EtcdServer(tmp_path / "etcd") as server:
        settings = server.settings()
        async with Etcd(settings) as etcd:
            node = AgentNode(etcd, settings, tmp_path)
            yield node, server
            node.clean()


async def test_stopping_agent_keeps_containers_and_removes_heartbeat(node: AgentNode) -> None:
    node.start()
    await node.assign(worker("a"))
    found = service_of(await node.settled(), "a")
    beat = await node.heartbeat()
    assert beat is not None
    assert (beat.uid, beat.problem) == (node.uid, "")
    assert beat.docker_version
    assert node.kill(signal.SIGTERM) == 0
    assert await node.heartbeat() is None
    assert node.containers("status=running") == [found.container]
    node.start()
    await node.assign(worker("a"), release=2)
    assert service_of(await node.settled(), "a").container == found.container


async def test_agent_killed_at_any_moment_finishes_work(node: AgentNode) -> None:
    """Old and new services, with and without volumes, and a removed service; the agent ends a bit later each time."""
    release = 0
    for after in (0.0, 0.05, 0.15, 0.3, 0.5, 0.8, 1.2):
        release += 1
        node.start()
        version = str(release)
        await node.assign(
            web(text=version), worker("db", volume="data", V=version), worker(f"only-in-{version}"), release=release
        )
        await node.until("begun", lambda _: True, any_generation=True)
        await asyncio.sleep(after)
        node.kill(signal.SIGTERM if release % 3 == 0 else signal.SIGKILL)
    node.start()
    status = await node.settled()
    assert [service.name for service in status.services] == ["db", f"only-in-{release}", "web"]
    assert len(node.containers()) == 3
    assert len(node.containers("status=running")) == 3
    assert len(docker("network", "ls", "-q", *node.labelled).split()) == 1
    assert len(docker("volume", "ls", "-q", *node.labelled).split()) == 1


@pytest.mark.parametrize("started", [False, True], ids=["ended", "started-by-one-that-did-not-live-to-note-it"])
async def test_exits_while_agent_was_down_are_restarted_and_counted(node: AgentNode, *, started: bool) -> None:
    node.start()
    await node.assign(worker("a"))
    before = service_of(await node.settled(), "a").container
    node.kill()
    docker("kill", before)
    if started:
        docker("start", before)
    node.start()
    await node.until("counted", reports("a", container=before, restarts=1, phase=ServiceStatus.RUNNING))


async def test_agent_continues_from_disk_without_etcd_and_catches_up(alone: tuple[AgentNode, EtcdServer]) -> None:
    node, server = alone
    node.start()
    await node.assign(worker("a"), worker("b"))
    before = await node.settled()
    await asyncio.to_thread(server.stop)
    # A container dies without etcd, then the agent does, then a container again.
    docker("kill", service_of(before, "a").container)
    await node.runs(2)
    node.kill()
    docker("rm", "-f", service_of(before, "b").container)
    node.start()
    await node.runs(2)
    await asyncio.to_thread(server.start)
    status = await node.until("told", reports("a", restarts=1))
    assert service_of(status, "a").container == service_of(before, "a").container
    await node.assign(worker("a", V="2"), release=2)
    assert len((await node.settled()).services) == 1
    assert (await node.heartbeat()) is not None


async def test_empty_etcd_removes_nothing_and_gets_reports_again(
    alone: tuple[AgentNode, EtcdServer],
) -> None:
    node, server = alone
    node.start()
    await node.assign(worker("a"))
    before = service_of(await node.settled(), "a").container
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(server.wipe)
    await asyncio.to_thread(server.start)
    status = await node.until("told again", lambda status: status.phase == Status.SETTLED, any_generation=True)
    assert service_of(status, "a").container == before
    await eventually("heartbeat", node.heartbeat)
    # The controller begins to count anew.
    node.generations.clear()
    await node.assign(worker("a"), worker("b"))
    assert service_of(await node.settled(), "a").container == before


async def test_killed_engine_recovers(node: AgentNode, tmp_path_factory: pytest.TempPathFactory) -> None:
    need_host()
    with Host(tmp_path_factory.mktemp("host")) as host:
        image = host.load_image("devopsellence/test:small")
        node.start("--docker-host", host.socket)
        await node.assign(worker("a", image=image), worker("b", image=image))
        before = await node.settled()
        host.kill_docker()

        async def problem() -> str:
            beat = await node.heartbeat()
            assert beat is None or beat.without_engine is bool(beat.problem)
            return beat.problem if beat else ""

        assert "does not answer" in await eventually("told", problem)
        host.start_docker()

        async def back() -> bool:
            return not await problem() and len(host.docker("ps", "-q").split()) == 2

        await eventually("back", back, seconds=10)
        after = await node.settled()
        assert [service.container for service in after.services] == [service.container for service in before.services]
        assert node.kill(signal.SIGTERM) == 0


async def test_second_agent_with_same_folder_exits(node: AgentNode) -> None:
    node.start()
    await node.assign(worker("a"))
    await node.settled()
    second = AgentNode(node.etcd, node.settings, node.folder)
    second.start()
    assert await asyncio.to_thread(second.ended) == 1
    assert "another agent already runs" in node.log.read_text()
