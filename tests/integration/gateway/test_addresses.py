"""Addresses of the gateways: recorded by the leader, learned by agents, and used when the configured ones are gone."""

from __future__ import annotations

import asyncio
import stat
from contextlib import aclosing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import structlog.testing

from bench.hollow.agent import HollowAgent
from bench.hollow.fleet import uid_of
from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.nodeagent.access import AccessMirror
from devopsellence.nodeagent.mirror import NodeContext
from devopsellence.nodeagent.state import StateFolder
from devopsellence.nodeagent.util.threads import ThreadPool
from devopsellence.store.codec import decode, encode
from devopsellence.store.errors import Unavailable, WatchLost
from devopsellence.store.etcd import Etcd
from devopsellence.store.identities import user_of_node
from devopsellence.store.settings import Settings
from tests.support.authority import Authority
from tests.support.controller import REF, ControllerProcess, EnvironmentDriver
from tests.support.gateway import RunningGateway
from tests.support.gateway_cluster import NODES, GatewayCluster, deploy, gateway_options, settles
from tests.support.ports import free_ports
from tests.support.relay import Relay
from tests.support.until import eventually

pytestmark = pytest.mark.etcd

JUNK = (
    b"junk",
    encode(pb.Gateways(addresses=["127.0.0.1:2381", "nonsense"])),
    encode(pb.Gateways(addresses=[f"127.0.0.1:{port}" for port in range(2000, 2065)])),
)


async def recorded(environment: EnvironmentDriver, *addresses: str) -> None:
    """Return once the record has these addresses."""
    await environment.until(
        pb.Gateways,
        environment.keys.gateways,
        lambda record: record is not None and list(record.addresses) == sorted(addresses),
    )


async def candidates(etcd: Etcd, count: int) -> None:
    """Return once there are ``count`` candidates."""
    look = partial(etcd.list, etcd.keys.election_prefix)
    await eventually(f"{count} candidates", look, lambda found: len(found.items) == count)


async def test_leader_records_every_gateway_and_writes_nothing_for_restarts(
    cluster: GatewayCluster, etcd: Etcd
) -> None:
    environment = EnvironmentDriver(etcd)
    await recorded(environment, *cluster.endpoints)
    written = await etcd.get(etcd.keys.gateways)
    first, second = cluster.controllers
    assert await first.stop() == 0
    await second.logged("reconciling")
    first.start()
    await candidates(etcd, 2)
    second.end()
    await candidates(etcd, 1)
    await eventually(
        "the first leads again", partial(asyncio.to_thread, first.lines, "reconciling"), lambda found: len(found) == 2
    )
    assert await etcd.get(etcd.keys.gateways) == written
    # A record that nobody can use is written again, with the one gateway that there is.
    for junk in JUNK:
        await etcd.put(etcd.keys.gateways, junk)
        await recorded(environment, cluster.endpoints[0])
    assert cluster.refusals() == []


async def test_configured_address_is_announced(
    etcd: Etcd, settings: Settings, authority: Authority, tmp_path: Path
) -> None:
    options = gateway_options(authority.issue_server("gateway"), free_ports(1)[0])
    controller = ControllerProcess(settings, tmp_path / "log", *options, "--gateway-advertise=192.0.2.1:443")
    try:
        await recorded(EnvironmentDriver(etcd), "192.0.2.1:443")
    finally:
        controller.end()


async def test_agent_with_one_gateway_learns_the_other_and_comes_up_with_it(
    cluster: GatewayCluster, etcd: Etcd, tmp_path: Path
) -> None:
    first, second = cluster.endpoints
    agents = [
        HollowAgent(name, uid_of(name), tmp_path / name, cluster.caller(user_of_node(uid_of(name)), first))
        for name in NODES
    ]
    environment, files = EnvironmentDriver(etcd), [tmp_path / name / "access.json" for name in NODES]
    for agent in agents:
        agent.start()
    await deploy(environment, 1, cluster.operator)
    await settles(environment, 1)

    async def learned() -> list[list[str]]:
        return [list(access(file).gateways.addresses) for file in files]

    await eventually("all agents know both", learned, lambda found: found == [sorted((first, second))] * len(NODES))
    # The leader, and the only gateway that the agents are configured with.
    cluster.controllers[0].end()
    await deploy(environment, 2, cluster.operator)
    await settles(environment, 2)
    for agent, file in zip(agents, files, strict=True):
        await agent.kill()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        agent.start()
    await deploy(environment, 3, cluster.operator)
    await settles(environment, 3)
    for agent in agents:
        assert agent.agent is not None
        assert agent.agent.access.state().problem == ""
        assert [container.release for container in agent.machine.containers.values()] == [3]
    await asyncio.gather(*(agent.stop() for agent in agents))
    assert cluster.refusals() == []


async def test_other_endpoints_break_no_open_watch(gateway: RunningGateway) -> None:
    await gateway.register("n1")
    keys, port = gateway.direct.keys, int(gateway.address.rpartition(":")[2])
    key, prefix = keys.assignment("n1", REF), keys.assignments_prefix("n1")
    async with Relay(port) as first, Relay(port) as second:
        settings = replace(gateway.node("n1"), endpoints=(first.endpoint,))
        async with asyncio.timeout(30), Etcd(settings) as etcd:
            async with aclosing(etcd.watch(prefix, start_revision=0)) as batches:
                await anext(batches)
                etcd.use_endpoints((first.endpoint, second.endpoint))
                assert await etcd.get(key) is None
                revision = await gateway.direct.put(key, b"{}")
                assert [event.mod_revision for event in (await anext(batches)).events] == [revision]
                first.refuse()
                with pytest.raises(WatchLost):
                    await anext(batches)

            async def resumed() -> list[int]:
                # As an informer does: a watch may begin before the channel knows of the broken connection.
                with suppress(WatchLost, Unavailable):
                    async with aclosing(etcd.watch(prefix, start_revision=revision)) as batches:
                        await anext(batches)
                        return [event.mod_revision for event in (await anext(batches)).events]
                return []

            await eventually("the watch is resumed", resumed, lambda seen: seen == [revision])


async def test_unusable_record_changes_nothing_and_is_named(gateway: RunningGateway, tmp_path: Path) -> None:
    await gateway.register("n1")
    key, settings = gateway.direct.keys.gateways, gateway.node("n1")
    known = pb.Gateways(addresses=[gateway.address])
    await gateway.direct.put(key, encode(known))
    with StateFolder(tmp_path) as folder, structlog.testing.capture_logs() as lines:
        async with Etcd(settings) as etcd:
            mirror = AccessMirror(NodeContext(etcd, "n1", "uid-n1", folder, ThreadPool(1, "disk")), settings)
            await mirror.load()
            running = asyncio.create_task(mirror.run())

            async def problem() -> str:
                return mirror.state().problem

            file = tmp_path / "access.json"
            await eventually("the record is on disk", partial(asyncio.to_thread, file.exists))
            for junk in JUNK:
                await gateway.direct.put(key, junk)
                await eventually("the record is named", problem, lambda found: found.startswith(key))
                await gateway.direct.put(key, encode(known))
                await eventually("the record is used", problem, lambda found: not found)
            await gateway.direct.delete(key)
            await asyncio.sleep(0.2)
            assert mirror.state().problem == ""
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
    assert access(file).gateways == known
    assert [line["log_level"] for line in lines if "stay as they were" in line["event"]] == ["warning"] * len(JUNK)


def access(file: Path) -> pb.AccessCopy:
    """Return an agent's access data on disk; empty without any."""
    return decode(pb.AccessCopy, file.name, file.read_bytes()) if file.exists() else pb.AccessCopy()
