"""The commands against a real agent process, a real engine and real containers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from devopsellence.api.v1.workload_pb2 import Task
from devopsellence.store.etcd import Etcd
from tests.integration.remote.cluster import FakeAgentCluster
from tests.integration.remote.resizable_terminal import ResizableTerminal
from tests.support.access import full_access
from tests.support.agent import AgentNode, worker
from tests.support.authority import settings_with
from tests.support.cli import REF
from tests.support.need import need_docker
from tests.support.until import eventually

pytestmark = [pytest.mark.docker, pytest.mark.etcd]


@pytest.fixture
async def machine(cluster: FakeAgentCluster, tmp_path: Path) -> AsyncIterator[AgentNode]:
    """Node n1 with an agent and a service called jobs, which prints a greeting and stays."""
    need_docker()
    async with Etcd(cluster.settings) as etcd:
        node = AgentNode(etcd, cluster.settings, tmp_path)
        node.settings = settings_with(cluster.settings, cluster.authority.issue_agent(node.uid))
        await asyncio.to_thread(cluster.registered, "n1", node.uid, ["worker"])
        await etcd.put(etcd.keys.operator_access("ann"), full_access("ann"))
        try:
            node.start("--api-listen", "127.0.0.1:0")
            jobs = worker("jobs", "sh", "-c", "echo hello; echo oh >&2; exec sleep 100000", GREETING="hi")
            await node.assign(jobs, ref=REF)
            await node.settled(REF)
            await eventually("a heartbeat", node.heartbeat)
            greet = Task(name="greet", service="jobs", command=["sh", "-c", 'echo "$GREETING $0"; exit 5'])
            await asyncio.to_thread(cluster.release, jobs, tasks=[greet])
            yield node
        finally:
            await asyncio.to_thread(node.clean)


async def test_commands_work_against_real_agent(cluster: FakeAgentCluster, machine: AgentNode) -> None:
    def ask() -> None:
        assert sorted(cluster.ok("logs", "jobs").splitlines()) == ["hello", "oh"]
        done = cluster.run(
            "exec", "jobs", "-i", "--", "sh", "-c", 'cat; echo "$GREETING" >&2; exit 137', stdin=b"\xff\0" * 99999
        )
        assert (done.returncode, done.stdout, done.stderr) == (137, b"\xff\0" * 99999, b"hi\n")
        assert cluster.run("exec", "jobs", "--", "no-such-command").returncode in (126, 127)
        done = cluster.run("task", "run", "greet", "--", "you")
        assert (done.returncode, done.stdout) == (5, b"hi you\n")
        document = json.loads(cluster.run("node", "diagnose", "n1", "-o", "json").stdout.splitlines()[0])
        assert document["operation"] == "node diagnose"

    await asyncio.to_thread(ask)


async def test_shell_runs_on_terminal(cluster: FakeAgentCluster, machine: AgentNode) -> None:
    def use() -> None:
        window = ResizableTerminal(cluster, "exec", "jobs", "-it", "--", "sh")
        window.resize(97, 23)
        window.read_until(b"# ")
        window.type(b"echo be''gun; stty size\r")
        window.read_until(b"begun\r\n23 97\r\n")
        window.type(b"exit 3\r")
        assert window.left() == (3, True)

    await asyncio.to_thread(use)
