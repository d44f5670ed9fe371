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
            machine = AgentNode(etcd, settings, tmp_path)
            yield machine, server
            machine.clean()


async def test_stopping_agent_keeps_containers_and_removes_heartbeat(machine: AgentNode) -> None:
    machine.start()
    await machine.assign(worker("a"))
    found = service_of(await machine.settled(), "a")
    beat = await machine.heartbeat()
    assert beat is not None
    assert (beat.uid, beat.problem) == (machine.uid, "")
    assert beat.docker_version
    assert machine.kill(signal.SIGTERM) == 0
    assert await machine.heartbeat() is None
    assert machine.containers("status=running") == [found.container]
    machine.start()
    await machine.assign(worker("a"), release=2)
    assert service_of(await machine.settled(), "a").container == found.container


async def test_agent_killed_at_any_moment_finishes_work(machine: AgentNode) -> None:
    """Old and new services, with and without volumes, and a removed service; the agent ends a bit later each time."""
    release = 0
    for after in (0.0, 0.05, 0.15, 0.3, 0.5, 0.8, 1.2):
        release += 1
        machine.start()
        version = str(release)
        await machine.assign(
            web(text=version), worker("db", volume="data", V=version), worker(f"only-in-{version}"), release=release
        )
        await machine.until("begun", lambda _: True, any_generation=True)
        await asyncio.sleep(after)
        machine.kill(signal.SIGTERM if release % 3 == 0 else signal.SIGKILL)
    machine.start()
    status = await machine.settled()
    assert [service.name for service in status.services] == ["db", f"only-in-{release}", "web"]
    assert len(machine.containers()) == 3
    assert len(machine.containers("status=running")) == 3
    assert len(docker("network", "ls", "-q", *machine.labelled).split()) == 1
    assert len(docker("volume", "ls", "-q", *machine.labelled).split()) == 1


@pytest.mark.parametrize("started", [False, True], ids=["ended", "started-by-one-that-did-not-live-to-note-it"])
async def test_exits_while_agent_was_down_are_restarted_and_counted(machine: AgentNode, *, started: bool) -> None:
    machine.start()
    await machine.assign(worker("a"))
    before = service_of(await machine.settled(), "a").container
    machine.kill()
    docker("kill", before)
    if started:
        docker("start", before)
    machine.start()
    await machine.until("counted", reports("a", container=before, restarts=1, phase=ServiceStatus.RUNNING))


async def test_agent_continues_from_disk_without_etcd_and_catches_up(alone: tuple[AgentNode, EtcdServer]) -> None:
    machine, server = alone
    machine.start()
    await machine.assign(worker("a"), worker("b"))
    before = await machine.settled()
    await asyncio.to_thread(server.stop)
    # A container dies without etcd, then the agent does, then a container again.
    docker("kill", service_of(before, "a").container)
    await machine.runs(2)
    machine.kill()
    docker("rm", "-f", service_of(before, "b").container)
    machine.start()
    await machine.runs(2)
    await asyncio.to_thread(server.start)
    status = await machine.until("told", reports("a", restarts=1))
    assert service_of(status, "a").container == service_of(before, "a").container
    await machine.assign(worker("a", V="2"), release=2)
    assert len((await machine.settled()).services) == 1
    assert (await machine.heartbeat()) is not None


async def test_empty_etcd_removes_nothing_and_gets_reports_again(
    alone: tuple[AgentNode, EtcdServer],
) -> None:
    machine, server = alone
    machine.start()
    await machine.assign(worker("a"))
    before = service_of(await machine.settled(), "a").container
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(server.wipe)
    await asyncio.to_thread(server.start)
    status = await machine.until("told again", lambda status: status.phase == Status.SETTLED, any_generation=True)
    assert service_of(status, "a").container == before
    await eventually("heartbeat", machine.heartbeat)
    # The controller begins to count anew.
    machine.generations.clear()
    await machine.assign(worker("a"), worker("b"))
    assert service_of(await machine.settled(), "a").container == before


async def test_killed_engine_recovers(machine: AgentNode, tmp_path_factory: pytest.TempPathFactory) -> None:
    need_host()
    with Host(tmp_path_factory.mktemp("host")) as host:
        image = host.load_image("devopsellence/test:small")
        machine.start("--docker-host", host.socket)
        await machine.assign(worker("a", image=image), worker("b", image=image))
        before = await machine.settled()
        host.kill_docker()

        async def problem() -> str:
            beat = await machine.heartbeat()
            return beat.problem if beat else ""

        assert "does not answer" in await eventually("told", problem)
        host.start_docker()

        async def back() -> bool:
            return not await problem() and len(host.docker("ps", "-q").split()) == 2

        await eventually("back", back, seconds=10)
        after = await machine.settled()
        assert [service.container for service in after.services] == [service.container for service in before.services]
        assert machine.kill(signal.SIGTERM) == 0


async def test_second_agent_with_same_folder_exits(machine: AgentNode) -> None:
    machine.start()
    await machine.assign(worker("a"))
    await machine.settled()
    second = AgentNode(machine.etcd, machine.settings, machine.folder)
    second.start()
    assert await asyncio.to_thread(second.ended) == 1
    assert "another agent already runs" in machine.log.read_text()
