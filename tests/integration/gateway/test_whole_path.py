"""Real agents and the real command line, all of them through gateways: a release settles, also without one gateway."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from bench.hollow.agent import HollowAgent
from bench.hollow.fleet import uid_of
from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.store.etcd import Etcd
from devopsellence.store.identities import user_of_node, user_of_operator
from tests.integration.cli import secret_operator
from tests.support.controller import REF, EnvironmentDriver
from tests.support.gateway_cluster import NODES, GatewayCluster, deploy
from tests.support.until import eventually

pytestmark = pytest.mark.etcd


async def test_release_settles_through_gateways_also_without_one(cluster: GatewayCluster, tmp_path: Path) -> None:
    agents = [
        HollowAgent(name, uid_of(name), tmp_path / name, cluster.caller(user_of_node(uid_of(name)))) for name in NODES
    ]
    async with Etcd(cluster.caller(user_of_operator(cluster.operator))) as etcd:
        environment = EnvironmentDriver(etcd)
        for agent in agents:
            agent.start()
        await deploy(environment, 1, cluster.operator)
        await environment.rollout(lambda one: (one.release, one.phase) == (1, pb.Rollout.SETTLED))
        # The leader with its gateway.
        cluster.controllers[0].end()
        await deploy(environment, 2, cluster.operator)

        async def phase() -> tuple[int, int]:
            record = await environment.read(pb.Rollout, environment.keys.rollout(REF))
            return (record.release, record.phase) if record is not None else (0, 0)

        await eventually("release 2 settles", phase, lambda seen: seen == (2, pb.Rollout.SETTLED))
        for agent in agents:
            assert [container.release for container in agent.machine.containers.values()] == [2]
        events = await etcd.list(environment.keys.events_prefix(REF))
        sources = {json.loads(item.value).get("source") for item in events.items}
        assert {"controller", "agent/n1", "agent/n2", "agent/n3"} <= sources
        await asyncio.gather(*(agent.stop() for agent in agents))
        assert not (await etcd.list(environment.keys.heartbeats_prefix)).items
    assert cluster.refusals() == []


def test_commands_work_through_the_gateway(
    cluster: GatewayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "devopsellence.yml").write_text(secret_operator.CONFIG)
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(folder)
    me = secret_operator.Operator(cluster.caller(user_of_operator(cluster.operator)), folder, tmp_path / "operator.age")
    assert [node["node"] for node in me.json("node", "list")["nodes"]] == list(NODES)
    me.ok("node", "label", "set", "n1", "--labels", "web,worker")
    me.ok("node", "attach", "n1")
    me.set("TOKEN", b"one", service="worker")
    me.set("TOKEN", b"two", service="worker")
    assert me.versions("TOKEN", "worker") == [1, 2]
    me.ok("secret", "delete", "TOKEN", "--service", "worker", "--yes")
    me.ok("node", "cordon", "n1")
    me.ok("node", "detach", "n1", "-y")
    assert me.json("events")["events"]
    assert [found["environment"] for found in me.json("env", "list")["environments"]] == ["acme/Shop/production"]
    me.ok("env", "delete", "acme/Shop/production", "-y")
    assert me.json("env", "list")["environments"] == []
    assert cluster.refusals() == []
