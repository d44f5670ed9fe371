"""Replicas with the real controller and a real etcd: a node that dies, and one that is drained in steps."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.api.v1.workload_pb2 import Service
from devopsellence.store.etcd import Etcd
from devopsellence.store.settings import Settings
from tests.support.controller import REF, ControllerProcess, EnvironmentDriver

pytestmark = pytest.mark.etcd
SETTLED = pb.AssignmentStatus.SETTLED
NODES = ("n1", "n2", "n3")


@pytest.fixture
def controller(settings: Settings, tmp_path: Path) -> Iterator[ControllerProcess]:
    process = ControllerProcess(settings, tmp_path / "controller.log", "--debug")
    yield process
    process.end()


@pytest.fixture
async def environment(etcd: Etcd, controller: ControllerProcess) -> EnvironmentDriver:
    """Three nodes, of which two run ``jobs`` and all run ``web``; settled."""
    made = EnvironmentDriver(etcd)
    release = pb.Release(
        organization=REF.organization,
        project=REF.project,
        environment=REF.environment,
        number=1,
        services=[
            Service(name="jobs", kind=Service.WORKER, replicas=2),
            Service(name="web", kind=Service.WEB),
        ],
    )
    release.rollout.progress_deadline.FromSeconds(600)
    release.rollout.reschedule_after.FromSeconds(1)
    for name in NODES:
        await made.add_node(name, "web", "worker")
    await made.deploy(release, *NODES)
    for name, expected in {"n1": ["jobs", "web"], "n2": ["jobs", "web"], "n3": ["web"]}.items():
        await report(made, await made.assignment(name, runs(*expected)))
    await made.rollout(lambda one: one.phase == pb.Rollout.SETTLED)
    return made


def runs(*services: str) -> Callable[[pb.Assignment], bool]:
    return lambda one: [service.name for service in one.services] == list(services)


async def report(environment: EnvironmentDriver, assignment: pb.Assignment, *also: pb.ServiceStatus) -> None:
    """As its agent would: all that is assigned runs, and ``also``."""
    running = [
        pb.ServiceStatus(name=service.name, phase=pb.ServiceStatus.RUNNING, health=pb.ServiceStatus.NONE)
        for service in assignment.services
    ]
    phase = pb.AssignmentStatus.CONVERGING if also else SETTLED
    await environment.report(assignment, phase, *running, *also)


async def drain(environment: EnvironmentDriver, name: str) -> None:
    node = pb.Node(name=name, uid=f"uid-{name}", labels=["web", "worker"], cordoned=True)
    node.drain.requested_by = "test"
    await environment.write(environment.keys.node(name), node)


async def test_replica_moves_from_unreachable_node(
    environment: EnvironmentDriver,
) -> None:
    keys = environment.keys
    await environment.etcd.delete(keys.heartbeat("n1"))
    moved = await environment.assignment("n3", runs("jobs", "web"))
    before = await environment.read(pb.Assignment, keys.assignment("n1", REF))
    assert before is not None
    assert runs("jobs", "web")(before), "it keeps its copy until the other one runs"
    await report(environment, moved)
    gone = await environment.assignment("n1", runs("web"))
    await environment.write(keys.heartbeat("n1"), pb.Heartbeat(node="n1", uid="uid-n1"))
    await report(environment, gone)
    await environment.rollout(lambda one: one.phase == pb.Rollout.SETTLED and not one.reason)
    assert await environment.read(pb.Assignment, keys.assignment("n3", REF)) == moved
    events = [item.value.decode() for item in (await environment.etcd.list(keys.events_prefix(REF))).items]
    assert any("jobs moves here from n1 (unreachable for more than 1 s)" in event for event in events)


async def test_drained_node_is_emptied_of_web_services_first(environment: EnvironmentDriver) -> None:
    await drain(environment, "n1")
    stays = await environment.assignment("n1", runs("jobs"))
    moved = await environment.assignment("n3", runs("jobs", "web"))
    # The replica runs elsewhere before the drained node has said that its web service has ended.
    await report(environment, moved)
    await report(environment, stays, pb.ServiceStatus(name="web", phase=pb.ServiceStatus.STOPPING))
    rollout = await environment.rollout(
        lambda one: any("jobs runs until web has ended there" in progress.reason for progress in one.nodes)
    )
    assert rollout.phase == pb.Rollout.SETTLED
    await report(environment, stays)
    empty = await environment.assignment("n1", runs())
    await report(environment, empty)
    rollout = await environment.rollout(
        lambda one: any(
            progress.reason.endswith(" drained; run devopsellence node uncordon n1") for progress in one.nodes
        )
    )
    assert rollout.phase == pb.Rollout.SETTLED


async def test_chosen_copy_stays_while_controllers_die_and_it_restarts(
    etcd: Etcd, settings: Settings, controller: ControllerProcess, tmp_path: Path
) -> None:
    made = EnvironmentDriver(etcd)
    for name in NODES:
        await made.add_node(name, "worker")
    await made.deploy(shrinking(1, replicas=0), *NODES)
    for name in NODES:
        await report(made, await made.assignment(name, runs("redis")))
    await made.rollout(lambda one: one.phase == pb.Rollout.SETTLED)
    await made.deploy(shrinking(2, replicas=1), *NODES)
    chosen = await made.assignment("n1", lambda one: one.release == 2)
    controller.send(signal.SIGKILL)
    await asyncio.to_thread(controller.wait, 10)
    # An update of the chosen copy, while the others go on running.
    starting = pb.ServiceStatus(name="redis", phase=pb.ServiceStatus.STARTING)
    await made.report(chosen, pb.AssignmentStatus.CONVERGING, starting)
    successor = ControllerProcess(settings, tmp_path / "successor.log")
    try:
        await made.rollout(
            lambda one: any("is starting" in progress.reason for progress in one.nodes if progress.node == "n1")
        )
        await report(made, chosen)
        for name in ("n2", "n3"):
            await report(made, await made.assignment(name, runs()))
        rollout = await made.rollout(lambda one: one.phase == pb.Rollout.SETTLED and one.release == 2)
        assert list(rollout.replicas) == [pb.ReplicaNodes(service="redis", settled=["n1"])]
        assert await made.read(pb.Assignment, made.keys.assignment("n1", REF)) == chosen
    finally:
        successor.end()


def shrinking(number: int, *, replicas: int) -> pb.Release:
    """Return a release of Redis with a volume; one node updates at a time."""
    redis = Service(name="redis", kind=Service.WORKER, replicas=replicas, env={"RELEASE": str(number)})
    redis.volumes.add(source="data", target="/data")
    release = pb.Release(
        organization=REF.organization,
        project=REF.project,
        environment=REF.environment,
        number=number,
        services=[redis],
    )
    release.rollout.progress_deadline.FromSeconds(600)
    release.rollout.max_parallel = "1"
    return release
