"""Faults of containers, images and networks, and the agent's reaction."""

from __future__ import annotations

import asyncio

import pytest

from devopsellence.api.v1 import workload_pb2
from tests.support.agent import ENV, AgentNode, ServiceStatus, Status, reports, service_of, web, worker
from tests.support.docker import docker

pytestmark = pytest.mark.docker

NO_IMAGE = "sha256:" + "0" * 64


async def test_killed_container_is_restarted_at_once(machine: AgentNode) -> None:
    machine.start()
    await machine.assign(worker("a"))
    before = service_of(await machine.settled(), "a").container
    docker("kill", before)
    assert await machine.runs(1) == [before]
    status = await machine.until("said", reports("a", phase=ServiceStatus.RUNNING, restarts=1))
    assert service_of(status, "a").last_exit.code == 137
    docker("stop", "-t", "0", before)
    await machine.until("said", reports("a", phase=ServiceStatus.RUNNING, restarts=2, container=before))


async def test_removed_container_is_recreated_with_data(machine: AgentNode) -> None:
    machine.start()
    await machine.assign(worker("a", volume="data"))
    for _ in range(2):
        before = service_of(await machine.settled(), "a").container
        docker("exec", before, "sh", "-c", "echo kept > /data/file")
        docker("rm", "-f", before)
        (again,) = await machine.runs(1)
        assert again != before
        assert docker("exec", again, "cat", "/data/file") == "kept"
        await machine.until("said", reports("a", container=again))


async def test_crash_loop_reports_exit_code_and_log_lines_and_fails(machine: AgentNode) -> None:
    machine.start()
    script = "for i in $(seq 30); do echo line $i; done; exit 3"
    await machine.assign(worker("a", "sh", "-c", script), worker("b"))
    status = await machine.until("failed", lambda status: status.phase == Status.FAILED)
    found = service_of(status, "a")
    assert found.failed
    assert "exit code 3" in found.reason
    assert found.phase in (ServiceStatus.BACKOFF, ServiceStatus.STARTING)
    assert found.last_exit.code == 3
    assert found.last_exit.log_lines[-1] == "line 30"
    assert len(found.last_exit.log_lines) == 20
    assert service_of(status, "b").phase == ServiceStatus.RUNNING
    waiting = await machine.until("waits", reports("a", phase=ServiceStatus.BACKOFF))
    assert service_of(waiting, "a").next_attempt_at.ToSeconds() > 0
    # The counters outlive the agent.
    restarts = service_of(waiting, "a").restarts
    assert restarts >= 2
    machine.kill()
    machine.start()
    await machine.until("counts on", lambda status: service_of(status, "a").restarts >= restarts)


async def test_exceeded_memory_limit_is_reported(machine: AgentNode) -> None:
    machine.start()
    hungry = worker("a", "sh", "-c", "sleep 0.2; tail /dev/zero")
    hungry.resources.memory_mib = 16
    await machine.assign(hungry)
    status = await machine.until("said", lambda status: service_of(status, "a").last_exit.oom_killed)
    assert service_of(status, "a").last_exit.code == 137


async def test_unstartable_version_fails_and_old_one_serves(machine: AgentNode) -> None:
    def services(image: str = "", *command: str) -> list[workload_pb2.Service]:
        return [worker("a", image=image), worker("b", *command), worker("db", image=image, volume="data")]

    machine.start()
    await machine.assign(*services())
    first = await machine.settled()
    secretive = worker("s")
    secretive.secret_refs.add(name="PASSWORD", secret="DB_PASSWORD")
    await machine.assign(*services(NO_IMAGE, "/no/such/command"), secretive, release=2)
    status = await machine.until("failed", lambda status: all(service.failed for service in status.services))
    for name, reason in (("a", NO_IMAGE), ("b", "/no/such/command"), ("db", NO_IMAGE)):
        found = service_of(status, name)
        assert reason in found.reason
        assert (found.container, found.release) == (service_of(first, name).container, 1)
    assert status.phase == Status.FAILED
    assert "DB_PASSWORD" in service_of(status, "s").reason
    assert len(machine.containers("status=running")) == 3
    await machine.assign(*services(), release=3)
    healed = await machine.settled()
    assert sorted(service.container for service in healed.services) == sorted(machine.containers())
    assert [service.container for service in healed.services] == [service.container for service in first.services]


async def test_unhealthy_new_version_never_takes_over(machine: AgentNode) -> None:
    machine.start()
    await machine.assign(web())
    first = service_of(await machine.settled(), "web").container
    await machine.assign(web(text="two", script="sleep 1000"), release=2)
    status = await machine.until("failed", lambda status: service_of(status, "web").failed)
    assert "connection refused" in status.reason
    assert service_of(status, "web").container == first
    await machine.until("waits", reports("web", phase=ServiceStatus.BACKOFF, container=first))
    assert machine.containers("status=running") == [first]
    # A version that works heals it.
    await machine.assign(web(text="three"), release=3)
    healed = service_of(await machine.settled(), "web")
    assert not healed.failed
    assert machine.containers() == [healed.container]


async def test_foreign_container_of_same_name_blocks_one_service(machine: AgentNode) -> None:
    machine.start()
    await machine.assign(worker("a"))
    name = machine.inspect(service_of(await machine.settled(), "a").container)["Name"].lstrip("/")
    await machine.assign()
    await machine.settled()
    foreign = docker("run", "-d", "--name", name, worker("x").image.pinned, "sleep", "1000")
    try:
        await machine.assign(worker("a"), worker("b"))
        status = await machine.until("said", lambda status: reports("a", phase=ServiceStatus.BACKOFF)(status))
        assert name in service_of(status, "a").reason
        await machine.until("b goes on", reports("b", phase=ServiceStatus.RUNNING))
    finally:
        docker("rm", "-f", foreign)
    await machine.settled()


async def test_removed_network_is_recreated(machine: AgentNode) -> None:
    machine.start()
    await machine.assign(web(), worker("b"))
    status = await machine.settled()
    network = docker("network", "ls", "-q", *machine.labelled)
    for service in status.services:
        docker("network", "disconnect", "-f", network, service.container)
    docker("network", "rm", network, check=False)

    def back(status: Status) -> bool:
        return status.phase == Status.SETTLED and all(service.address for service in status.services)

    await asyncio.sleep(0.5)
    again = await machine.until("back on a network", back)
    assert docker("exec", service_of(again, "b").container, "wget", "-qO-", "http://web:3000/up") == "one"


async def test_pruned_network_is_recreated(machine: AgentNode) -> None:
    machine.start()
    await machine.assign(worker("a"))
    before = service_of(await machine.settled(), "a").container
    machine.kill()
    docker("kill", before)
    docker("network", "rm", docker("network", "ls", "-q", *machine.labelled))
    machine.start()
    await machine.until("back", lambda status: service_of(status, "a").container not in ("", before))
    await machine.settled()
    assert len(machine.containers()) == 1


async def test_containers_of_an_unknown_environment_are_left_alone(machine: AgentNode) -> None:
    labels = {"managed": "true", "environment": "acme/gone/production", "service": "a", "node_uid": machine.uid}
    extra = [part for key, value in labels.items() for part in ("--label", f"devopsellence.{key}={value}")]
    docker("run", "-d", *extra, worker("x").image.pinned, "sleep", "1000")
    machine.start()
    await machine.assign(worker("a"))
    await machine.settled()
    assert len(machine.containers("status=running")) == 2
    (line,) = machine.lines("containers of an environment without a known assignment are left alone")
    assert line["env"] == "acme/gone/production"
    assert await machine.etcd.get(machine.etcd.keys.assignment(machine.node, ENV)) is not None
