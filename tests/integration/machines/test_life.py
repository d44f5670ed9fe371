"""Life of a node from registration to removal, with real agents and a real controller."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys

import pytest

from devopsellence.api.v1.stored_pb2 import Environment, Heartbeat
from devopsellence.store.codec import decode
from tests.integration.machines.cluster import AgentCluster
from tests.support.agent import AgentNode, worker
from tests.support.cli import REF
from tests.support.docker import docker
from tests.support.need import need_docker
from tests.support.until import eventually, until

pytestmark = [pytest.mark.docker, pytest.mark.etcd]


@pytest.fixture
async def pair(cluster: AgentCluster) -> tuple[AgentNode, AgentNode]:
    """Two attached nodes with the service jobs; n1 alone has redis, with data."""
    need_docker()
    cluster.controller()
    first = await cluster.registered("n1", "--labels", "worker")
    second = await cluster.registered("n2", "--labels", "worker")
    for node in (first, second):
        node.start("--api-listen", "127.0.0.1:0")
    await cluster.listed_as("n1", "ready")
    await cluster.listed_as("n2", "ready")
    return first, second


async def test_node_is_drained_uncordoned_and_removed(cluster: AgentCluster, pair: tuple[AgentNode, AgentNode]) -> None:
    first, second = pair
    await cluster.release(1, worker("jobs", "sleep", "1000"), nodes=("n1", "n2"))
    await first.runs(1)
    (kept,) = await second.runs(1)
    shown = await cluster.json("node", "drain", "n1", "--dry-run")
    assert [(service["service"], service["elsewhere"]) for service in shown["leaving"]] == [("jobs", ["n2"])]
    assert (await cluster.listed("n1"))["state"] == "ready"

    done = await cluster.json("node", "drain", "n1")
    assert (done["drained"], done["left"], done["stays"]) == (True, [], [])
    assert first.containers() == []
    assert second.containers("status=running") == [kept]
    assert (await cluster.listed("n1"))["state"] == "drained"
    # Again, it is done at once, and remembers who asked first.
    asked = (await cluster.listed("n1"))["drain"]
    await cluster.command("node", "drain", "n1")
    assert (await cluster.listed("n1"))["drain"] == asked

    await cluster.command("node", "uncordon", "n1")
    await first.runs(1)
    assert (await cluster.listed("n1"))["state"] == "ready"
    assert (await cluster.error("node", "remove", "n1", "-y"))["code"] == "node_in_use"

    await cluster.command("node", "drain", "n1")
    tried = await cluster.json("node", "remove", "n1", "--dry-run")
    assert (tried["removed"], tried["detached"]) == (False, [str(REF)])
    assert (await cluster.listed("n1"))["state"] == "drained"
    await cluster.command("node", "remove", "n1", "-y")
    keys = cluster.etcd.keys
    for gone in (keys.node("n1"), keys.heartbeat("n1"), keys.assignment("n1", REF), keys.status("n1", REF)):
        assert await cluster.etcd.get(gone) is None, gone
    environment = await cluster.etcd.get(keys.environment(REF))
    assert environment is not None
    assert list(decode(Environment, "", environment.value).nodes) == ["n2"]
    assert docker("network", "ls", "-q", *first.labelled) == ""
    assert second.containers("status=running") == [kept]
    assert (await cluster.json("node", "remove", "n1", "-y"))["removed"] is False


async def test_service_with_volume_stays_until_move_volumes(
    cluster: AgentCluster, pair: tuple[AgentNode, AgentNode]
) -> None:
    first, second = pair
    services = (worker("jobs", "sleep", "1000"), worker("redis", "sleep", "1000", volume="data"))
    await cluster.release(1, *services, nodes=("n1", "n2"))
    await first.runs(2)
    await second.runs(2)
    shown = await cluster.json("node", "drain", "n1", "--dry-run")
    assert {service["service"]: service["stays"] for service in shown["leaving"]} == {"jobs": False, "redis": True}
    done = await cluster.json("node", "drain", "n1")
    assert (done["drained"], [remaining["service"] for remaining in done["stays"]]) == (True, ["redis"])
    assert len(first.containers("status=running")) == 1
    listed = await cluster.listed("n1")
    assert (listed["state"], listed["note"]) == ("drained", "redis stays because of its volumes")
    assert (await cluster.error("node", "remove", "n1", "-y"))["code"] == "node_in_use"
    moved = await cluster.json("node", "drain", "n1", "--move-volumes")
    assert (moved["drained"], moved["stays"]) == (True, [])
    assert first.containers() == []
    assert docker("volume", "ls", "-q", *first.labelled) != ""


async def test_ctrl_c_ends_following_but_not_drain(cluster: AgentCluster, pair: tuple[AgentNode, AgentNode]) -> None:
    first, _ = pair
    slow = worker("jobs", "sh", "-c", "trap 'sleep 4; exit' TERM; sleep 1000 & wait")
    slow.stop_grace_period.FromSeconds(20)
    await cluster.release(1, slow, nodes=("n1", "n2"))
    await first.runs(1)

    def interrupted() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "devopsellence.cli", "node", "drain", "n1", "-o", "json"]
        environ = cluster.cli.process_environ()
        with subprocess.Popen(
            command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["event"] == "started"
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    done = await asyncio.to_thread(interrupted)
    assert done.returncode == 130, done.stderr
    assert "node n1" in done.stderr
    await cluster.listed_as("n1", "drained")
    await asyncio.to_thread(until, "it is empty", lambda: not first.containers())


async def test_lost_machine_is_removed_only_with_force(
    cluster: AgentCluster, pair: tuple[AgentNode, AgentNode]
) -> None:
    first, second = pair
    await cluster.release(1, worker("jobs", "sleep", "1000"), nodes=("n1", "n2"))
    await first.runs(1)
    await second.runs(1)
    first.kill(signal.SIGKILL)
    keys = cluster.etcd.keys
    record = await cluster.etcd.get(keys.heartbeat("n1"))
    assert record is not None
    assert decode(Heartbeat, "", record.value).uid == first.uid
    # As if its lease had run out already.
    await cluster.etcd.revoke_lease(record.lease)
    assert (await cluster.listed("n1"))["state"] == "unreachable"
    assert (await cluster.error("node", "remove", "n1", "-y"))["code"] == "node_in_use"
    late = await cluster.error("node", "drain", "n1", "--timeout", "1s")
    assert late["code"] == "node_drain_timeout"
    assert "n1" in late["message"]
    await cluster.command("node", "remove", "n1", "--force", "-y")

    async def left() -> list[str]:
        prefixes = (keys.assignments_prefix("n1"), keys.statuses_prefix("n1"))
        return [item.key for prefix in prefixes for item in (await cluster.etcd.list(prefix)).items]

    await eventually("the controller has removed the rest", left, lambda rest: not rest, seconds=40)
    assert await cluster.etcd.get(keys.node("n1")) is None
