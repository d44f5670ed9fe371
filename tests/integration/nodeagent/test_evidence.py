"""Output of containers that fail, noted before they are gone, and what keeps an environment from starting."""

from __future__ import annotations

import uuid

import pytest

from devopsellence.nodeagent.docker import names
from devopsellence.nodeagent.log_archive import LogArchive
from tests.integration.nodeagent.test_secrets import recipient, refers, sealed
from tests.support.agent import ENV, SERVE, AgentNode, ServiceStatus, Status, reports, service_of, web, worker
from tests.support.docker import docker
from tests.support.until import eventually

pytestmark = pytest.mark.docker


def kept_output(node: AgentNode) -> list[tuple[str, int, list[bytes]]]:
    logs = LogArchive(node.folder / "state" / "logs").of(ENV)
    return [(log.service, log.release, [line.text for line in log.lines()]) for log in logs]


async def test_failure_of_an_unhealthy_version_is_reported_with_its_output(node: AgentNode) -> None:
    node.start()
    to = await recipient(node)
    await node.assign(web())
    await node.settled()
    secret = f"canary-{uuid.uuid4().hex}"
    script = "printf 'password is %s\\033[31m\\n' $PASSWORD; echo 'no database' >&2; exec sleep 1000"
    service = refers(web(text="two", script=script))
    await node.assign(service, release=2, secrets=[sealed(secret.encode(), to, service="web")])
    # The very first status with the failure has the output.
    status = await node.until("failed", lambda status: service_of(status, "web").failed)
    unhealthy = service_of(status, "web").last_unhealthy
    assert sorted(unhealthy.log_lines) == ["no database", "password is [secret]"]
    assert "connection refused" in unhealthy.reason
    # After the rollback the container is gone, and its output is not.
    await node.assign(web(), release=3)
    await node.settled()
    assert unhealthy.container not in node.containers()
    ((service_name, release, lines),) = kept_output(node)
    assert (service_name, release) == ("web", 2)
    assert sorted(lines) == [b"no database", b"password is [secret]\x1b[31m"]
    for path in (node.folder / "state").rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes(), path


async def test_replacement_of_a_container_that_became_unhealthy_keeps_its_output(node: AgentNode) -> None:
    node.start()
    script = f"echo serving; (while [ -e /w/up ] || [ ! -e /w/was ]; do sleep 0.1; done; echo lost) & {SERVE}"
    await node.assign(web(script=script))
    before = service_of(await node.settled(), "web").container
    docker("exec", before, "sh", "-c", "touch /w/was; rm /w/up")
    status = await node.until("noted", lambda status: service_of(status, "web").HasField("last_unhealthy"))
    unhealthy = service_of(status, "web").last_unhealthy
    assert unhealthy.container == before
    assert list(unhealthy.log_lines) == ["serving", "lost"]
    again = await node.until(
        "replaced", lambda status: status.phase == Status.SETTLED and service_of(status, "web").container != before
    )
    assert service_of(again, "web").last_unhealthy == unhealthy, "the last one stays on record"
    assert [lines for _, _, lines in kept_output(node)] == [[b"serving", b"lost"]]


async def test_killed_child_does_not_hide_the_exit_code(node: AgentNode) -> None:
    node.start()
    hungry = worker("a", "sh", "-c", "tail /dev/zero & wait $!; exit 3")
    hungry.resources.memory_mib = 16
    await node.assign(hungry)
    status = await node.until("said", lambda status: service_of(status, "a").last_exit.oom_killed)
    service_status = service_of(status, "a")
    assert service_status.last_exit.code == 3
    assert "exit code 3 (one of its processes ran out of memory)" in service_status.reason


async def test_foreign_network_of_the_same_name_fails_at_once_and_its_removal_ends_that(node: AgentNode) -> None:
    name = names.network_name(node.uid, ENV)
    docker("network", "create", "--label", f"test.uid={node.uid}", name)
    try:
        node.start()
        await node.assign(worker("a"))
        status = await node.until("failed", lambda status: status.phase == Status.FAILED)
        assert status.problem == status.reason
        assert f"docker network rm {name}" in status.problem
        assert service_of(status, "a").reason == f"waits for the environment's network: {status.problem}"
    finally:
        docker("network", "rm", name)
    assert (await node.settled()).problem == ""


async def test_kept_output_goes_with_the_environment(node: AgentNode) -> None:
    node.start()
    await node.assign(worker("a", "sh", "-c", "echo one; exec sleep 1000"))
    await node.settled()
    await node.assign(worker("a", "sh", "-c", "echo two; exec sleep 1000"), release=2)
    await node.settled()
    assert kept_output(node) == [("a", 1, [b"one"])]
    await node.assign(removed=True)
    await node.until("removed", lambda status: status.phase == Status.REMOVED)
    assert [release for _, release, _ in kept_output(node)] == [1, 2]
    await node.etcd.delete(node.etcd.keys.assignment(node.name, ENV))

    async def forgotten() -> bool:
        return not (node.folder / "state" / "logs" / str(ENV).replace("/", "+")).exists()

    await eventually("its output is gone", forgotten)


async def test_number_of_networks_left_follows_the_engine(node: AgentNode) -> None:
    node.start()

    async def left() -> int | None:
        beat = await node.heartbeat()
        return beat.networks_left if beat is not None and beat.HasField("networks_left") else None

    await eventually("counted", left)
    await node.assign(worker("a"))
    await node.until("runs", reports("a", phase=ServiceStatus.RUNNING))
    # Other tests use the same engine, so only that there is a number can be told.
    assert await left() is not None
