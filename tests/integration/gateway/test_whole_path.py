"""Real agents and the real command line, all of them through gateways: a release settles, also without one gateway."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from bench.hollow.agent import HollowAgent
from bench.hollow.fleet import registrations, uid_of
from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.api.v1 import workload_pb2
from devopsellence.store.codec import encode
from devopsellence.store.etcd import Compare, Etcd, Put
from devopsellence.store.identities import user_of_node, user_of_operator
from devopsellence.store.settings import Settings
from tests.integration.cli import secret_operator
from tests.integration.gateway.key_classes import fields
from tests.support.authority import Authority, settings_with
from tests.support.controller import REF, ControllerProcess, EnvironmentDriver
from tests.support.ports import free_ports
from tests.support.until import eventually

pytestmark = pytest.mark.etcd

NODES = ("n1", "n2", "n3")


@dataclass(frozen=True)
class GatewayCluster:
    """Two controllers with gateways, three registered nodes, and an operator with all rights."""

    settings: Settings
    authority: Authority
    endpoints: tuple[str, ...]
    controllers: tuple[ControllerProcess, ...]
    operator: str

    def caller(self, common_name: str) -> Settings:
        return settings_with(replace(self.settings, endpoints=self.endpoints), self.authority.issue(common_name))

    def refusals(self) -> list[dict[str, Any]]:
        """Return what the gateways refused, but for calls before they knew their callers."""
        lines = [line for controller in self.controllers for line in controller.lines("refused")]
        return [line for line in lines if line["kind"] != "not_now"]


@pytest.fixture
async def cluster(
    etcd: Etcd, settings: Settings, authority: Authority, tmp_path: Path
) -> AsyncIterator[GatewayCluster]:
    operator = "ann"
    access = pb.OperatorAccess(name=operator, environments=["*"], nodes=True)
    await etcd.put(etcd.keys.operator_access(operator), encode(access))
    await etcd.txn([], registrations(etcd, NODES, ["web"]))
    files = authority.issue_server("gateway")
    certificate = (f"--gateway-cert={files.certificate}", f"--gateway-key={files.key}")
    async with AsyncExitStack() as stack:
        ports, controllers = free_ports(2), []
        for port in ports:
            options = (f"--gateway-listen=127.0.0.1:{port}", *certificate, f"--gateway-ca-cert={files.authority}")
            controllers.append(ControllerProcess(settings, tmp_path / f"{port}.log", *options))
            stack.callback(controllers[-1].end)
            await controllers[-1].logged("gateway started")
        await controllers[0].logged("leading")
        endpoints = tuple(f"127.0.0.1:{port}" for port in ports)
        yield GatewayCluster(settings, authority, endpoints, tuple(controllers), operator)


def release(number: int, author: str) -> pb.Release:
    made = pb.Release(
        number=number,
        created_by=author,
        **fields(REF),
        services=[
            workload_pb2.Service(
                name="web",
                kind=workload_pb2.Service.WEB,
                image=workload_pb2.Image(pinned=f"sha256:{number:064x}"),
                healthcheck=workload_pb2.HealthCheck(path="/up", port=3000),
            )
        ],
    )
    made.rollout.progress_deadline.FromSeconds(600)
    made.rollout.max_parallel = "100%"
    return made


async def deploy(environment: EnvironmentDriver, number: int, author: str) -> None:
    """Write a release and the environment in one transaction, as the command line does."""
    keys, made = environment.keys, release(number, author)
    record = pb.Environment(nodes=NODES, latest_release=number, **fields(REF))
    key = keys.release(REF, number)
    puts = [Put(key, encode(made)), Put(keys.environment(REF), encode(record))]
    assert (await environment.etcd.txn([Compare.absent(key)], puts)).succeeded


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
