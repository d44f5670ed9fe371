"""Readiness, order of starts and stops, completing services, and services that become unhealthy."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping

import pytest

from devopsellence.api.v1 import stored_pb2, workload_pb2
from devopsellence.store.codec import decode
from tests.support.agent import ENV, SERVE, AgentNode, ServiceStatus, Status, reports, service_of, web, worker
from tests.support.docker import docker
from tests.support.images import small_image
from tests.support.until import eventually

pytestmark = pytest.mark.docker

D = workload_pb2.Dependency
LISTEN = "exec httpd -f -p 6379 -h /www"


def after(
    service: workload_pb2.Service, others: Mapping[str, workload_pb2.Dependency.Condition.ValueType]
) -> workload_pb2.Service:
    """``service``, with dependencies."""
    for name, condition in others.items():
        service.depends_on.add(service=name, condition=condition)
    return service


def ready(service: workload_pb2.Service, *command: str, tcp: int = 0) -> workload_pb2.Service:
    """Return ``service`` with a readiness probe five times a second."""
    service.readiness.command.extend(command)
    service.readiness.tcp_port, service.readiness.retries = tcp, 2
    service.readiness.interval.FromMilliseconds(200)
    service.readiness.timeout.FromMilliseconds(500)
    service.readiness.start_period.FromSeconds(30)
    return service


def redis(delay: float = 0) -> workload_pb2.Service:
    """Return a service that listens on the port of Redis after ``delay`` seconds."""
    return ready(worker("redis", "sh", "-c", f"sleep {delay}; {LISTEN}"), tcp=6379)


def client() -> workload_pb2.Service:
    """Return a service that ends at once if redis cannot be reached at the start."""
    script = "wget -qO- http://redis:6379/up || exit 7; exec sleep 100000"
    return after(worker("client", "sh", "-c", script), {"redis": D.SERVICE_HEALTHY})


async def codes(node: AgentNode) -> list[str]:
    """The codes of all events so far."""
    listing = await node.etcd.list(node.etcd.keys.events_prefix(ENV))
    return [decode(stored_pb2.Event, item.key, item.value).code for item in listing.items]


async def test_dependent_waits_for_slow_service_with_a_reason(node: AgentNode) -> None:
    node.start()
    await node.assign(redis(delay=2), client())
    value = await node.until(
        "waits", lambda status: "connection refused" in "".join(service.reason for service in status.services)
    )
    status_waiting = await node.until("says", lambda status: "refused" in service_of(status, "client").reason)
    assert service_of(status_waiting, "client").reason.startswith(
        "waits for redis to be healthy: not healthy yet: tcp "
    )
    assert service_of(status_waiting, "client").phase == ServiceStatus.PENDING
    assert value.phase == Status.CONVERGING
    status = await node.settled()
    assert service_of(status, "redis").health == ServiceStatus.HEALTHY
    assert service_of(status, "client").restarts == 0

    # All of it goes down, as by a reboot.
    node.kill()
    docker("kill", *node.containers())
    node.start()
    status = await node.until(
        "again",
        lambda status: status.phase == Status.SETTLED and all(service.restarts == 1 for service in status.services),
    )
    started = {service.name: node.inspect(service.container)["State"]["StartedAt"] for service in status.services}
    assert started["redis"] < started["client"]
    assert service_of(status, "client").last_exit.code == 137

    # One that runs is left alone when what it depends on starts again.
    before = service_of(status, "client").container
    docker("kill", service_of(status, "redis").container)
    await node.until("restarted", reports("redis", phase=ServiceStatus.RUNNING, restarts=2))
    assert node.inspect(before)["State"]["StartedAt"] == started["client"]


async def test_exec_probe_makes_service_ready(node: AgentNode) -> None:
    node.start()
    service = worker("db", "sh", "-c", "sleep 1; touch /tmp/ready; exec sleep 100000")
    await node.assign(ready(service, "sh", "-c", "test -f /tmp/ready || { echo no such file; exit 3; }"))
    waiting = await node.until("asked", lambda status: "exit code 3" in service_of(status, "db").reason)
    assert service_of(waiting, "db").reason.endswith("exit code 3: no such file")
    assert service_of(waiting, "db").health == ServiceStatus.CHECKING
    assert service_of(await node.settled(), "db").health == ServiceStatus.HEALTHY


async def test_unrunnable_exec_probe_is_reported(node: AgentNode) -> None:
    node.start()
    await node.assign(ready(worker("db"), "no-such-command"))
    await node.until("said", lambda status: "no-such-command: " in service_of(status, "db").reason)


async def test_hanging_or_verbose_exec_probe_is_ended(node: AgentNode) -> None:
    node.start()
    await node.assign(
        ready(worker("hangs"), "sh", "-c", "sleep 3333; true"), ready(worker("talks"), "sh", "-c", "yes 4444; true")
    )

    def late(status: Status) -> bool:
        return all("timed out after 0.5 s" in service.reason for service in status.services)

    status = await node.until("late", late)

    async def asked_again() -> bool:
        # One at a time, and the ones before are gone: the shell and what it has started.
        for name, word in (("hangs", "3333"), ("talks", "4444")):
            running = docker("top", service_of(status, name).container, "-o", "pid,args").splitlines()
            assert len([line for line in running if word in line]) <= 2, running
        return True

    for _ in range(10):
        await eventually("asked", asked_again)
        await asyncio.sleep(0.2)


async def test_completing_service_runs_once_before_its_dependents(node: AgentNode) -> None:
    node.start()
    # Fails the first time.
    job = worker("job", "sh", "-c", "sleep 0.5; [ -f /data/tried ] && exit 0; touch /data/tried; exit 4", volume="job")
    job.completes = True
    await node.assign(job, after(worker("app"), {"job": D.SERVICE_COMPLETED_SUCCESSFULLY}))
    await node.until("waits", lambda status: service_of(status, "app").reason.startswith("waits for job to complete"))
    status = await node.settled()
    done = service_of(status, "job")
    assert (done.phase, done.restarts, done.last_exit.code) == (ServiceStatus.COMPLETED, 1, 0)
    ended = node.inspect(done.container)["State"]["FinishedAt"]
    assert ended < node.inspect(service_of(status, "app").container)["State"]["StartedAt"]
    assert "service_completed" in await codes(node)

    node.kill()
    node.start()
    await node.assign(job, after(worker("app", A="1"), {"job": D.SERVICE_COMPLETED_SUCCESSFULLY}), release=2)
    status = await node.settled()
    assert (service_of(status, "job").container, service_of(status, "job").reused) == (done.container, True)
    assert node.inspect(done.container)["State"]["FinishedAt"] == ended


async def test_unhealthy_container_is_replaced(node: AgentNode) -> None:
    node.start()
    await node.assign(web(), worker("other"))
    first = await node.settled()
    before = service_of(first, "web").container
    docker("exec", before, "rm", "/w/up")
    seen = await node.until("unhealthy", reports("web", health=ServiceStatus.UNHEALTHY))
    service_status = service_of(seen, "web")
    assert service_status.HasField("unhealthy_since")
    assert service_status.reason.startswith("not healthy: GET http://")
    assert service_status.reason.endswith("answered 404")
    second = await node.settled()
    again = service_of(second, "web")
    assert again.container != before
    assert (again.restarts, again.HasField("unhealthy_since")) == (1, False)
    assert service_of(second, "other").container == service_of(first, "other").container
    assert len(node.containers()) == 2

    # The second time it has to wait, also across a restart of the agent, and says until when.
    docker("exec", again.container, "rm", "/w/up")
    waits = await node.until("waits", lambda status: service_of(status, "web").HasField("next_attempt_at"))
    assert service_of(waits, "web").container == again.container
    node.kill()
    node.start()
    third = await node.until(
        "replaced", lambda status: service_of(status, "web").container not in ("", again.container), seconds=60
    )
    started = service_of(third, "web").started_at.ToMilliseconds() - again.started_at.ToMilliseconds()
    assert started >= 10_000

    async def reported() -> bool:
        return {"service_unhealthy", "service_recreated"} <= set(await codes(node))

    await eventually("reported", reported)


async def test_container_recovering_during_backoff_is_left_alone(node: AgentNode) -> None:
    node.start()
    await node.assign(web())
    first = service_of(await node.settled(), "web").container
    docker("exec", first, "rm", "/w/up")
    await node.until("gone", lambda status: service_of(status, "web").container != first)
    service_status = service_of(await node.settled(), "web")
    docker("exec", service_status.container, "mv", "/w/up", "/w/down")
    status = await node.until("unhealthy", reports("web", health=ServiceStatus.UNHEALTHY))
    assert (status.phase, service_of(status, "web").phase) == (Status.CONVERGING, ServiceStatus.RUNNING)
    docker("exec", service_status.container, "mv", "/w/down", "/w/up")
    assert service_of(await node.settled(), "web").container == service_status.container


async def test_unhealthy_container_with_volume_stops_before_its_successor_starts(node: AgentNode) -> None:
    node.start()
    script = f"echo started >> /data/log; trap 'echo ended >> /data/log; exit 0' TERM; ({SERVE}) & wait"
    db = web("db", script=script)
    db.volumes.add(source="data", target="/data")
    db.stop_grace_period.FromSeconds(10)
    await node.assign(db)
    before = service_of(await node.settled(), "db").container
    docker("exec", before, "rm", "/w/up")
    await node.until("gone", lambda status: service_of(status, "db").container != before)
    service_status = service_of(await node.settled(), "db")
    assert docker("exec", service_status.container, "cat", "/data/log").split() == ["started", "ended", "started"]


async def test_tombstone_stops_services_in_reverse_order(node: AgentNode) -> None:
    node.start()
    script = "trap 'sleep 0.3; echo $N >> /data/log; exit 0' TERM; while :; do sleep 0.05; done"
    services = [worker(name, "sh", "-c", script, volume="log", N=name) for name in ("a", "b", "c")]
    for service in services:
        service.stop_grace_period.FromSeconds(10)
    after(services[0], {"b": D.SERVICE_STARTED})
    after(services[1], {"c": D.SERVICE_STARTED})
    await node.assign(*services)
    await node.settled()
    await node.assign(removed=True)
    await node.until("removed", lambda status: status.phase == Status.REMOVED)
    (volume,) = docker("volume", "ls", "-q", *node.labelled).split()
    log = docker("run", "--rm", "-v", f"{volume}:/data", small_image(), "cat", "/data/log")
    assert log.split() == ["a", "b", "c"]


@pytest.mark.parametrize(
    "left", ["sleep 1000 &", "setsid sleep 1000 >/dev/null 2>&1 &"], ids=["in its session", "as a daemon"]
)
async def test_processes_that_a_probe_leaves_behind_are_ended_and_named(node: AgentNode, left: str) -> None:
    node.start()
    # The first process waits for every child.
    service = worker("a", "sh", "-c", "while :; do sleep 1; done")
    await node.assign(ready(service, "sh", "-c", f"{left} exit 0"))
    status = await node.settled(seconds=40.0)
    # The name is the one at the time of the kill, which may come before the shell has become sleep: busybox runs its
    # own programs as /proc/self/exe.
    left_behind = r"leaves processes behind \((sh|setsid|sleep|exe)\), which are killed"
    assert re.search(left_behind, service_of(status, "a").reason)

    async def bounded() -> bool:
        listed = await asyncio.to_thread(docker, "top", service_of(status, "a").container)
        return "sleep 1000" not in listed

    for _ in range(5):
        await eventually("nothing is left", bounded)
