"""Hollow agents under a real controller and a real etcd: releases settle, faults show, a killed agent is taken over."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bench.hollow.agent import HollowAgent
from bench.hollow.fleet import Fleet, registrations, uid_of
from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.api.v1 import workload_pb2
from devopsellence.store.etcd import Etcd
from devopsellence.store.settings import Settings
from tests.support.controller import REF, ControllerProcess, EnvironmentDriver

pytestmark = pytest.mark.etcd

NAMES = [f"n{number:02}" for number in range(20)]


@pytest.fixture
async def environment(etcd: Etcd, settings: Settings, tmp_path: Path) -> AsyncIterator[EnvironmentDriver]:
    """An environment under a controller."""
    controller = ControllerProcess(settings, tmp_path / "controller.log")
    try:
        await controller.logged("leading")
        yield EnvironmentDriver(etcd)
    finally:
        controller.end()


def release(number: int, **variables: str) -> pb.Release:
    """Return a release of a web service, all nodes in one batch, halting on failure."""
    made = pb.Release(
        organization=REF.organization,
        project=REF.project,
        environment=REF.environment,
        number=number,
        services=[
            workload_pb2.Service(
                name="web",
                kind=workload_pb2.Service.WEB,
                image=workload_pb2.Image(pinned=f"sha256:{number:064x}"),
                env=variables,
                healthcheck=workload_pb2.HealthCheck(path="/up", port=3000),
            )
        ],
    )
    made.rollout.progress_deadline.FromSeconds(600)
    made.rollout.max_parallel = "100%"
    made.rollout.on_failure = workload_pb2.RolloutPolicy.HALT
    return made


async def settled(environment: EnvironmentDriver, number: int) -> pb.Rollout:
    return await environment.rollout(lambda one: one.release == number and one.phase == pb.Rollout.SETTLED)


async def test_twenty_agents_settle_successive_releases(
    environment: EnvironmentDriver, settings: Settings, tmp_path: Path
) -> None:
    await environment.etcd.txn([], registrations(environment.etcd, NAMES, ["web"]))
    async with Fleet(NAMES, tmp_path / "agents", settings) as fleet:
        for number in (1, 2):
            await environment.deploy(release(number), *NAMES)
            await settled(environment, number)
            for agent in fleet.agents:
                assert [container.release for container in agent.machine.containers.values()] == [number]
        assert all(agent.running for agent in fleet.agents)
    # All of them said goodbye.
    assert not (await environment.etcd.list(environment.keys.heartbeats_prefix)).items


async def test_unhealthy_release_fails(environment: EnvironmentDriver, settings: Settings, tmp_path: Path) -> None:
    await environment.etcd.txn([], registrations(environment.etcd, NAMES[:3], ["web"]))
    bad = release(1, HOLLOW_READY="never")
    bad.services[0].healthcheck.interval.FromMilliseconds(50)
    bad.services[0].healthcheck.timeout.FromMilliseconds(50)
    bad.services[0].healthcheck.start_period.FromMilliseconds(50)
    async with Fleet(NAMES[:3], tmp_path / "agents", settings):
        await environment.deploy(bad, *NAMES[:3])
        failed = await environment.rollout(lambda one: one.phase == pb.Rollout.FAILED)
        assert "answered 503" in failed.reason


async def test_killed_agent_is_replaced(environment: EnvironmentDriver, settings: Settings, tmp_path: Path) -> None:
    await environment.etcd.txn([], registrations(environment.etcd, ["n00"], ["web"]))
    agent = HollowAgent("n00", uid_of("n00"), tmp_path / "n00", settings)
    agent.start()
    await environment.deploy(release(1), "n00")
    await settled(environment, 1)
    (before,) = agent.machine.containers.values()

    await agent.kill()
    agent.machine.end(before.id, 1)
    # Killed, not stopped: nobody has taken the heartbeat back.
    assert await environment.etcd.get(environment.keys.heartbeat("n00")) is not None

    agent.start()
    await environment.until(
        pb.AssignmentStatus,
        environment.keys.status("n00", REF),
        lambda one: one is not None and one.phase == pb.AssignmentStatus.SETTLED and one.services[0].restarts == 1,
    )
    assert agent.machine.containers[before.id].up
    await agent.stop()
