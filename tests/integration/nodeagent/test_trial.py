"""First minute of a service, containers that take long to stop, and dependencies that are ready."""

from __future__ import annotations

import pytest

from devopsellence.api.v1 import workload_pb2
from tests.support.agent import AgentNode, ServiceStatus, Status, reports, service_of, worker
from tests.support.docker import docker

pytestmark = pytest.mark.docker

#: Process that stops when told to, long after SIGTERM.
LINGERS = 'trap "until [ -e /go ]; do sleep 0.1; done; exit 0" TERM; while :; do sleep 0.1; done'


def lingering(version: str, *, volume: str = "") -> workload_pb2.Service:
    service = worker("jobs", "sh", "-c", LINGERS, volume=volume, VERSION=version)
    service.stop_grace_period.FromSeconds(60)
    return service


async def test_service_that_ends_again_and_again_is_given_up_and_never_lasts(node: AgentNode) -> None:
    node.start()
    await node.assign(worker("jobs", "sh", "-c", "echo cannot reach redis; exit 7"))
    status = await node.until("failed", lambda status: status.phase == Status.FAILED)
    jobs = service_of(status, "jobs")
    assert (jobs.failed, jobs.HasField("lasted"), jobs.lasted, jobs.last_exit.code) == (True, True, False, 7)
    assert set(jobs.last_exit.log_lines) == {"cannot reach redis"}


async def test_service_does_not_settle_between_two_exits(node: AgentNode) -> None:
    node.start()
    await node.assign(worker("jobs", "sh", "-c", "sleep 2; exit 7"))
    status = await node.until("runs again", reports("jobs", restarts=1, phase=ServiceStatus.RUNNING))
    assert status.phase == Status.CONVERGING
    assert service_of(status, "jobs").reason == "runs again, but has ended once within 60 s of its start"


async def test_older_container_is_stopping_while_the_new_one_runs(node: AgentNode) -> None:
    node.start()
    await node.assign(lingering("1"))
    before = service_of(await node.settled(), "jobs").container
    await node.assign(lingering("2"), release=2)
    status = await node.until("stopping", reports("jobs", stopping=before, phase=ServiceStatus.RUNNING))
    jobs = service_of(status, "jobs")
    assert (status.phase, jobs.release, jobs.waits_for_older) == (Status.CONVERGING, 2, True)
    assert jobs.reason.endswith("is stopping (it has had SIGTERM)")
    docker("exec", before, "touch", "/go")
    jobs = service_of(await node.settled(), "jobs")
    assert (jobs.release, jobs.stopping, jobs.waits_for_older) == (2, "", False)
    docker("exec", jobs.container, "touch", "/go")


async def test_new_container_waits_for_the_volume_of_a_stopping_one(node: AgentNode) -> None:
    node.start()
    await node.assign(lingering("1", volume="data"))
    before = service_of(await node.settled(), "jobs").container
    await node.assign(lingering("2", volume="data"), release=2)
    status = await node.until("stopping", reports("jobs", stopping=before))
    jobs = service_of(status, "jobs")
    assert (jobs.phase, jobs.container, jobs.waits_for_older) == (ServiceStatus.STOPPING, before, True)
    docker("exec", before, "touch", "/go")
    jobs = service_of(await node.settled(), "jobs")
    assert (jobs.release, jobs.stopping, jobs.waits_for_older) == (2, "", False)
    docker("exec", jobs.container, "touch", "/go")


async def test_dependency_without_a_condition_is_ready_before_the_dependent_starts(node: AgentNode) -> None:
    redis = worker("redis", "sh", "-c", "until [ -e /go ]; do sleep 0.1; done; exec httpd -f -p 6379 -h /")
    redis.readiness.tcp_port = 6379
    redis.readiness.start_period.FromSeconds(60)
    client = worker("client", "sh", "-c", "wget -qO- http://redis:6379/go || exit 7; exec sleep 100000")
    client.depends_on.add(service="redis", condition=workload_pb2.Dependency.SERVICE_STARTED)
    node.start()
    await node.assign(redis, client)
    status = await node.until(
        "waits",
        lambda status: service_of(status, "client").reason.startswith("waits for redis to be ready: not healthy"),
    )
    docker("exec", service_of(status, "redis").container, "touch", "/go")
    status = await node.settled()
    assert service_of(status, "client").restarts == 0


async def test_new_container_that_ends_is_restarted_while_the_older_one_stops(node: AgentNode) -> None:
    node.start()
    await node.assign(lingering("1"))
    before = service_of(await node.settled(), "jobs").container
    await node.assign(worker("jobs", "sh", "-c", "sleep 1; exit 7"), release=2)
    status = await node.until("failed", lambda status: service_of(status, "jobs").failed)
    jobs = service_of(status, "jobs")
    assert (jobs.stopping, jobs.last_exit.code) == (before, 7)
    docker("exec", before, "touch", "/go")
    await node.until("stopped", reports("jobs", stopping=""))
