"""Faults of containers, images and networks, and the agent's reaction."""

from __future__ import annotations

import asyncio

import pytest

from devopsellence.api.v1 import workload_pb2
from devopsellence.nodeagent.docker.names import container_name
from devopsellence.store.keys import EnvironmentRef
from tests.support.agent import ENV, AgentNode, ServiceStatus, Status, reports, service_of, web, worker
from tests.support.docker import docker

pytestmark = pytest.mark.docker

NO_IMAGE = "sha256:" + "0" * 64


async def test_killed_container_is_restarted_at_once(node: AgentNode) -> None:
    node.start()
    await node.assign(worker("a"))
    before = service_of(await node.settled(), "a").container
    docker("kill", before)
    assert await node.runs(1) == [before]
    status = await node.until("said", reports("a", phase=ServiceStatus.RUNNING, restarts=1))
    assert service_of(status, "a").last_exit.code == 137
    docker("stop", "-t", "0", before)
    await node.until("said", reports("a", phase=ServiceStatus.RUNNING, restarts=2, container=before))


async def test_removed_container_is_recreated_with_data(node: AgentNode) -> None:
    node.start()
    await node.assign(worker("a", volume="data"))
    for _ in range(2):
        before = service_of(await node.settled(), "a").container
        docker("exec", before, "sh", "-c", "echo kept > /data/file")
        docker("rm", "-f", before)
        (again,) = await node.runs(1)
        assert again != before
        assert docker("exec", again, "cat", "/data/file") == "kept"
        await node.until("said", reports("a", container=again))


async def test_crash_loop_reports_exit_code_and_log_lines_and_fails(node: AgentNode) -> None:
    node.start()
    script = "for i in $(seq 30); do echo line $i; done; exit 3"
    await node.assign(worker("a", "sh", "-c", script), worker("b"))
    status = await node.until("failed", lambda status: status.phase == Status.FAILED)
    service_status = service_of(status, "a")
    assert service_status.failed
    assert "exit code 3" in service_status.reason
    assert service_status.phase in (ServiceStatus.BACKOFF, ServiceStatus.STARTING)
    assert service_status.last_exit.code == 3
    assert service_status.last_exit.log_lines[-1] == "line 30"
    assert len(service_status.last_exit.log_lines) == 20
    assert service_of(status, "b").phase == ServiceStatus.RUNNING
    waiting = await node.until("waits", reports("a", phase=ServiceStatus.BACKOFF))
    assert service_of(waiting, "a").next_attempt_at.ToSeconds() > 0
    # The counters outlive the agent.
    restarts = service_of(waiting, "a").restarts
    assert restarts >= 2
    node.kill()
    node.start()
    await node.until("counts on", lambda status: service_of(status, "a").restarts >= restarts)


async def test_exceeded_memory_limit_is_reported(node: AgentNode) -> None:
    node.start()
    hungry = worker("a", "sh", "-c", "sleep 0.2; tail /dev/zero")
    hungry.resources.memory_mib = 16
    await node.assign(hungry)
    status = await node.until("said", lambda status: service_of(status, "a").last_exit.oom_killed)
    assert service_of(status, "a").last_exit.code == 137


async def test_unstartable_version_fails_and_old_one_serves(node: AgentNode) -> None:
    def services(image: str = "", *command: str) -> list[workload_pb2.Service]:
        return [worker("a", image=image), worker("b", *command), worker("db", image=image, volume="data")]

    node.start()
    await node.assign(*services())
    first = await node.settled()
    secretive = worker("s")
    secretive.secret_refs.add(name="PASSWORD", secret="DB_PASSWORD")
    await node.assign(*services(NO_IMAGE, "/no/such/command"), secretive, release=2)
    status = await node.until("failed", lambda status: all(service.failed for service in status.services))
    for name, reason in (("a", NO_IMAGE), ("b", "/no/such/command"), ("db", NO_IMAGE)):
        service_status = service_of(status, name)
        assert reason in service_status.reason
        assert (service_status.container, service_status.release) == (service_of(first, name).container, 1)
    assert status.phase == Status.FAILED
    assert "DB_PASSWORD" in service_of(status, "s").reason
    assert len(node.containers("status=running")) == 3
    await node.assign(*services(), release=3)
    healed = await node.settled()
    assert sorted(service.container for service in healed.services) == sorted(node.containers())
    assert [service.container for service in healed.services] == [service.container for service in first.services]


async def test_unhealthy_new_version_never_takes_over(node: AgentNode) -> None:
    node.start()
    await node.assign(web())
    first = service_of(await node.settled(), "web").container
    await node.assign(web(text="two", script="sleep 1000"), release=2)
    status = await node.until("failed", lambda status: service_of(status, "web").failed)
    assert "connection refused" in status.reason
    assert service_of(status, "web").container == first
    await node.until("waits", reports("web", phase=ServiceStatus.BACKOFF, container=first))
    assert node.containers("status=running") == [first]
    # A version that works heals it.
    await node.assign(web(text="three"), release=3)
    healed = service_of(await node.settled(), "web")
    assert not healed.failed
    assert node.containers() == [healed.container]


async def test_foreign_container_of_same_name_is_passed_over_and_named(node: AgentNode) -> None:
    node.start()
    await node.assign(worker("a"))
    name = node.inspect(service_of(await node.settled(), "a").container)["Name"].lstrip("/")
    await node.assign()
    await node.settled()
    foreign = docker("run", "-d", "--name", name, worker("x").image.pinned, "sleep", "1000")
    try:
        await node.assign(worker("a"), worker("b"))
        status = await node.settled()
        assert f"container {name} has a name that the agent gives" in service_of(status, "a").reason
        assert node.inspect(service_of(status, "a").container)["Name"] == f"/{name}-2"
    finally:
        docker("rm", "-f", foreign)
    await node.until("gone", reports("a", phase=ServiceStatus.RUNNING, reason=""))


async def test_removed_network_is_recreated(node: AgentNode) -> None:
    node.start()
    await node.assign(web(), worker("b"))
    status = await node.settled()
    network = docker("network", "ls", "-q", *node.labelled)
    for service in status.services:
        docker("network", "disconnect", "-f", network, service.container)
    docker("network", "rm", network, check=False)

    def back(status: Status) -> bool:
        return status.phase == Status.SETTLED and all(service.address for service in status.services)

    await asyncio.sleep(0.5)
    again = await node.until("back on a network", back)
    assert docker("exec", service_of(again, "b").container, "wget", "-qO-", "http://web:3000/up") == "one"


async def test_pruned_network_is_recreated(node: AgentNode) -> None:
    node.start()
    await node.assign(worker("a"))
    before = service_of(await node.settled(), "a").container
    node.kill()
    docker("kill", before)
    docker("network", "rm", docker("network", "ls", "-q", *node.labelled))
    node.start()
    await node.until("back", lambda status: service_of(status, "a").container not in ("", before))
    await node.settled()
    assert len(node.containers()) == 1


async def test_containers_of_an_unknown_environment_are_left_alone(node: AgentNode) -> None:
    gone = EnvironmentRef("acme", "gone", "production")
    labels = {"managed": "true", "environment": str(gone), "service": "a", "node_uid": node.uid, "hash": "0"}
    extra = [part for key, value in labels.items() for part in ("--label", f"devopsellence.{key}={value}")]
    name = container_name(node.uid, gone, "a", "0")
    docker("run", "-d", "--name", name, *extra, worker("x").image.pinned, "sleep", "1000")
    node.start()
    await node.assign(worker("a"))
    await node.settled()
    assert len(node.containers("status=running")) == 2
    (line,) = node.lines("containers of an environment without a known assignment are left alone")
    assert line["env"] == "acme/gone/production"
    assert await node.etcd.get(node.etcd.keys.assignment(node.name, ENV)) is not None
