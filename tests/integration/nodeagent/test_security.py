"""Security of containers on a real engine: defaults, settings of a service, and defaults that are pending."""

from __future__ import annotations

import asyncio

import pytest

from devopsellence.api.v1 import stored_pb2, workload_pb2
from devopsellence.nodeagent.docker import names
from devopsellence.nodeagent.plan.container_config import container_labels
from devopsellence.nodeagent.plan.spec import resolve_assignment
from tests.support.agent import ENV, AgentNode, service_of, worker
from tests.support.docker import docker
from tests.support.images import small_image

pytestmark = pytest.mark.docker
NET_RAW = 1 << 13
ALL = ["security.new_privileges: false", "security.pids_limit: 4096", "security.cap_add: []"]


def privileges(container: str) -> tuple[bool, bool]:
    """Return whether the kernel lets the container's processes gain privileges, and open raw sockets."""
    lines = docker("exec", container, "cat", "/proc/self/status").splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields["NoNewPrivs"]) == 0, bool(int(fields["CapBnd"], 16) & NET_RAW)


def pids_limit(node: AgentNode, container: str) -> int:
    return int(node.inspect(container)["HostConfig"]["PidsLimit"] or 0)


async def container_of_earlier_agent(node: AgentNode, service: workload_pb2.Service) -> str:
    """Start the container that an agent without these defaults has created for a service; return the id."""
    assignment = stored_pb2.Assignment(node=node.name, node_uid=node.uid, release=1, services=[service])
    desired = resolve_assignment(assignment, ENV, node.uid)
    assigned = desired.services[service.name]
    labels = {**container_labels(assigned, desired)}
    del labels[names.LABEL_DEFAULTS]
    of_environment = [f"--label={key}={value}" for key, value in names.environment_labels("n1", node.uid, ENV).items()]
    await asyncio.to_thread(docker, "network", "create", *of_environment, desired.network)
    options = ["--name", assigned.name, "--network", desired.network, "--stop-timeout", "0"]
    given = [f"--label={key}={value}" for key, value in labels.items()]
    return docker("run", "-d", *options, *given, small_image(), *service.command)[:12]


async def test_container_of_earlier_agent_stays_and_its_defaults_are_pending(node: AgentNode) -> None:
    old = await container_of_earlier_agent(node, worker("a"))
    before = node.inspect(old)
    node.start()
    await node.assign(worker("a"))
    status = service_of(await node.settled(), "a")
    assert (status.container, list(status.pending)) == (old, ALL)
    # Nor does a release without a change of this service, or an agent that starts again.
    node.kill()
    node.start()
    await node.assign(worker("a"), worker("b"), release=2)
    settled = await node.settled()
    assert (service_of(settled, "a").container, list(service_of(settled, "a").pending)) == (old, ALL)
    assert list(service_of(settled, "b").pending) == []
    after = node.inspect(old)
    assert (after["State"]["StartedAt"], after["HostConfig"]) == (before["State"]["StartedAt"], before["HostConfig"])
    assert privileges(old) == (True, True)
    await node.assign(worker("a", A="1"), worker("b"), release=3)
    status = service_of(await node.settled(), "a")
    assert (status.container != old, list(status.pending)) == (True, [])
    assert privileges(status.container) == (False, False)
    assert pids_limit(node, status.container) == 4096


async def test_settings_of_a_service_count_at_once(node: AgentNode) -> None:
    old = await container_of_earlier_agent(node, worker("a"))
    node.start()
    service = worker("a")
    # As by default: by this, an operator has the default at once.
    service.security.new_privileges = False
    await node.assign(service)
    first = service_of(await node.settled(), "a").container
    assert first != old
    assert privileges(first) == (False, False)
    service.security.new_privileges, service.security.pids_limit = True, 20
    service.security.cap_add.append("NET_RAW")
    await node.assign(service, release=2)
    second = service_of(await node.settled(), "a").container
    assert second != first
    assert privileges(second) == (True, True)
    assert pids_limit(node, second) == 20
    # The kernel enforces the limit.
    script = "i=0; while [ $i -lt 40 ]; do sleep 5 & i=$((i+1)); done; echo started"
    assert "started" not in docker("exec", second, "sh", "-c", script, check=False)
    await node.assign(worker("a"), release=3)
    third = service_of(await node.settled(), "a").container
    assert privileges(third) == (False, False)


async def test_release_task_has_the_settings_of_its_service(node: AgentNode) -> None:
    service = worker("a")
    service.security.pids_limit = 30
    # Of the second or the first version of control groups.
    limit = "cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/pids/pids.max 2>/dev/null"
    script = f"grep -e NoNewPrivs -e CapBnd /proc/self/status; {limit}; exit 3"
    task = workload_pb2.Task(name="release", service="a", command=["sh", "-c", script])
    node.start()
    await node.assign(service, task=task, task_service=service)
    failed = await node.until("failed", lambda status: status.task.phase == stored_pb2.TaskStatus.FAILED)
    capabilities, no_new_privileges, limit = failed.task.exit.log_lines
    assert no_new_privileges.split() == ["NoNewPrivs:", "1"]
    assert not int(capabilities.split()[1], 16) & NET_RAW
    assert limit == "30"
