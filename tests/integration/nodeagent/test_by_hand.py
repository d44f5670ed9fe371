"""Changes made by hand with Docker's own commands."""

from __future__ import annotations

import pytest

from tests.support.agent import AgentNode, ServiceStatus, reports, service_of, worker
from tests.support.docker import docker
from tests.support.until import eventually

pytestmark = pytest.mark.docker


async def settings(node: AgentNode, container: str, *expected: object) -> None:
    """Wait until restart policy, memory limit and CPU limit of a container have these values."""

    async def look() -> bool:
        host = node.inspect(container)["HostConfig"]
        return (host["RestartPolicy"]["Name"], host["Memory"], host["NanoCpus"]) == expected

    await eventually(f"the settings are {expected}", look)


async def test_restart_policy_set_by_hand_is_reset(node: AgentNode) -> None:
    node.start()
    await node.assign(worker("a"), worker("b"))
    container = service_of(await node.settled(), "a").container
    docker("update", "--restart=always", container)
    await settings(node, container, "no", 0, 0)
    docker("kill", container)
    status = await node.until("counted", reports("a", phase=ServiceStatus.RUNNING, restarts=1))
    assert service_of(status, "a").last_exit.code == 137
    # Set while the agent is away.
    node.kill()
    docker("update", "--restart=always", container)
    node.start()
    await settings(node, container, "no", 0, 0)
    docker("update", "--restart=always", container)
    await node.assign(worker("b"), release=2)
    await node.settled()
    assert container not in node.containers()


@pytest.mark.parametrize("removed", [False, True], ids=["new version", "removed"])
async def test_crash_loop_of_the_engines_own_ends(node: AgentNode, removed: bool) -> None:
    node.start()
    await node.assign(worker("a", "sh", "-c", "sleep 0.3; exit 3"), worker("b"))
    failed = await node.until("failed", lambda status: service_of(status, "a").failed)
    (container,) = set(node.containers()) - {service_of(failed, "b").container}
    node.kill()
    docker("update", "--restart=always", container)
    docker("start", container)

    async def restarted() -> bool:
        return int(node.inspect(container)["RestartCount"]) >= 3

    await eventually("the engine restarts it", restarted)
    node.start()
    await settings(node, container, "no", 0, 0)
    await node.until("counted", reports("a", failed=True))
    await node.assign(*([] if removed else [worker("a")]), worker("b"), release=2)
    await node.settled()
    assert container not in node.containers()
    assert len(node.containers()) == (1 if removed else 2)


async def test_limits_set_by_hand_are_reset(node: AgentNode) -> None:
    node.start()
    limited = worker("a")
    limited.resources.memory_mib, limited.resources.cpu_millis = 64, 500
    await node.assign(limited)
    container = service_of(await node.settled(), "a").container
    for memory in (32, 512):
        docker("update", "--memory", f"{memory}m", "--memory-swap", f"{2 * memory}m", "--cpus", "0.25", container)
        await settings(node, container, "no", 64 * 1024 * 1024, 500_000_000)
    status = await node.settled()
    assert (service_of(status, "a").container, service_of(status, "a").restarts) == (container, 0)


async def test_container_disconnected_again_and_again_is_connected(node: AgentNode) -> None:
    node.start()
    await node.assign(worker("a"))
    container = service_of(await node.settled(), "a").container
    network = docker("network", "ls", "-q", *node.labelled)

    async def connected() -> bool:
        return bool(node.inspect(container)["NetworkSettings"]["Networks"])

    for _ in range(3):
        docker("network", "disconnect", network, container)
        await eventually("it is connected", connected)

    async def three_times() -> bool:
        # An action is logged a moment after what it does.
        return len([line for line in node.lines("action") if line["action"] == "connect"]) == 3

    await eventually("it was connected three times", three_times)


async def test_paused_container_is_named_and_left_alone(node: AgentNode) -> None:
    node.start()
    await node.assign(worker("a"))
    container = service_of(await node.settled(), "a").container
    before = len(node.lines("action"))
    docker("pause", container)
    await node.until("said", lambda status: "docker unpause" in service_of(status, "a").reason)
    docker("unpause", container)
    await node.settled()
    assert len(node.lines("action")) == before
