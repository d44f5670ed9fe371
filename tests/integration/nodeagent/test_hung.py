"""A container whose containerd-shim is stopped: it is named and left alone, everything else goes on."""

from __future__ import annotations

import os
import signal

import pytest

from devopsellence.api.v1 import workload_pb2
from devopsellence.store.keys import EnvironmentRef
from tests.support.agent import AgentNode, ServiceStatus, Status, reports, service_of, worker
from tests.support.docker import docker
from tests.support.shim import stopped_shim

pytestmark = pytest.mark.docker

OTHER = EnvironmentRef("acme", "other", "production")
#: A probe, then an inspection, are waited for before the container counts as hung.
SECONDS = 90


def probed(name: str) -> workload_pb2.Service:
    """Return a service with a readiness command, run by its shim five times a second."""
    service = worker(name)
    service.readiness.command.extend(["true"])
    service.readiness.retries = 2
    service.readiness.interval.FromMilliseconds(200)
    service.readiness.timeout.FromSeconds(1)
    service.readiness.start_period.FromSeconds(5)
    return service


def hangs(status: Status) -> bool:
    return "does not answer about container" in service_of(status, "a").reason


async def test_container_with_a_stopped_shim_is_isolated_and_recovers(node: AgentNode) -> None:
    node.start()
    await node.assign(probed("a"), worker("b"))
    await node.assign(probed("c"), worker("d"), ref=OTHER)
    first = await node.settled()
    await node.settled(OTHER)
    hung = service_of(first, "a").container
    with stopped_shim(node.inspect(hung)["Id"]):
        status = await node.until("hangs", hangs, seconds=SECONDS)
        assert node.inspect(service_of(status, "b").container)["State"]["Running"]
        heartbeat = await node.heartbeat()
        assert heartbeat is not None
        assert heartbeat.problem == "", "the engine itself answers"
        docker("kill", service_of(status, "b").container)
        await node.until("restarted", reports("b", phase=ServiceStatus.RUNNING, restarts=1))
        # Another agent finds it hung, and starts all the same.
        node.kill()
        docker("kill", service_of(status, "b").container)
        node.start()
        await node.until("restarted", reports("b", phase=ServiceStatus.RUNNING, restarts=2), seconds=SECONDS)
        await node.until("hangs", hangs, seconds=SECONDS)
        await node.assign(probed("c"), worker("d", NEW="1"), ref=OTHER, release=2)
        await node.settled(OTHER, seconds=SECONDS)
        await node.assign(ref=OTHER, removed=True)
        await node.until("gone", lambda status: status.phase == Status.REMOVED, ref=OTHER, seconds=SECONDS)
    again = await node.settled(seconds=SECONDS)
    assert service_of(again, "a").phase == ServiceStatus.RUNNING


async def test_killed_shim_ends_the_container_and_it_is_started_again(node: AgentNode) -> None:
    """As the status advises."""
    node.start()
    await node.assign(probed("a"))
    hung = service_of(await node.settled(), "a").container
    with stopped_shim(node.inspect(hung)["Id"]) as shim:
        status = await node.until("hangs", hangs, seconds=SECONDS)
        assert f"-id {hung}" in service_of(status, "a").reason
        os.kill(shim, signal.SIGKILL)
        await node.settled(seconds=SECONDS)
