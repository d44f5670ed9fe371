"""Many quick cutovers: a container with routes or current requests is never stopped."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from bench.hollow.engine import HollowEngine, hollow
from bench.hollow.machine import HollowMachine
from devopsellence.api.v1 import stored_pb2, workload_pb2
from devopsellence.nodeagent.docker.engine import EngineCallbacks
from devopsellence.nodeagent.reconcile.machine import Machine
from devopsellence.store.codec import decode, encode
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef
from devopsellence.store.settings import Settings
from tests.integration.nodeagent.agent_with_router import agent_on
from tests.support.fake_router import FakeRouter
from tests.support.until import eventually

ENV = EnvironmentRef("acme", "shop", "production")
HOST = "app.example.com"
IMAGE = "sha256:" + "a" * 64


class Watched(HollowMachine):
    """Engine that records stops of containers still in use."""

    def __init__(self, routes: FakeRouter) -> None:
        super().__init__()
        self.stopped_too_early: list[str] = []
        self._routes = routes

    def stop(self, container: str) -> None:
        if container in self._routes.held(ENV):
            self.stopped_too_early.append(self.containers[container].name)
        super().stop(container)


def works(machine: HollowMachine, routes: FakeRouter, callbacks: EngineCallbacks) -> Machine[HollowEngine]:
    routes.changed = lambda env: callbacks.changed(str(env))
    return replace(hollow(machine, callbacks), router=routes)


def service(name: str, version: int, *, volume: bool = False, ready: float = 0.0) -> workload_pb2.Service:
    made = workload_pb2.Service(name=name, kind=workload_pb2.Service.WEB, image=workload_pb2.Image(pinned=IMAGE))
    made.env.update({"VERSION": str(version), "HOLLOW_READY": str(ready)})
    made.ports.add(name="http", port=3000)
    made.healthcheck.path, made.healthcheck.port, made.healthcheck.retries = "/up", 3000, 2
    made.healthcheck.interval.FromMilliseconds(200)
    made.healthcheck.start_period.FromSeconds(30)
    if volume:
        made.volumes.add(source="data", target="/data")
    return made


def assignment(release: int, *services: workload_pb2.Service, removed: bool = False) -> stored_pb2.Assignment:
    ingress = workload_pb2.Ingress(hosts=[HOST])
    for each in services:
        ingress.rules.add(host=HOST, path_prefix=f"/{each.name}", service=each.name, port="http")
    return stored_pb2.Assignment(
        node="n1",
        node_uid="uid-n1",
        organization=ENV.organization,
        project=ENV.project,
        environment=ENV.environment,
        generation=release,
        release=release,
        services=services,
        ingress=ingress,
        removed=removed,
    )


async def settled(
    etcd: Etcd, routes: FakeRouter, release: int, phase: stored_pb2.AssignmentStatus.Phase.ValueType
) -> None:
    """Return when the status is settled, ending requests meanwhile."""
    key = etcd.keys.status("n1", ENV)

    async def look() -> bool:
        routes.end_requests(ENV)
        found = await etcd.get(key)
        status = decode(stored_pb2.AssignmentStatus, key, found.value) if found is not None else None
        return status is not None and (status.release, status.phase) == (release, phase)

    await eventually(f"release {release}", look, seconds=60)


@pytest.mark.parametrize("seed", range(3))
async def test_routed_containers_are_never_stopped(etcd: Etcd, settings: Settings, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    routes = FakeRouter()
    machine = Watched(routes)
    key = etcd.keys.assignment("n1", ENV)
    release = 0

    async def answered() -> bool:
        return len(routes.routed(ENV)) > 0

    while release < 8:
        # Each agent sees some of them, and the next one goes on.
        async with agent_on("n1", "uid-n1", tmp_path, settings, lambda callbacks: works(machine, routes, callbacks)):
            for _ in range(chance.randint(1, 4)):
                release += 1
                # Also back to a version whose container may still be there.
                web = service("web", chance.randint(1, 3), ready=chance.choice([0.0, 0.1]))
                database = service("db", chance.randint(1, 2), volume=True)
                await etcd.put(key, encode(assignment(release, web, database)))
                if chance.random() < 0.7:
                    await eventually("somebody answers", answered, seconds=60)
                if chance.random() < 0.5:
                    routes.end_requests(ENV)
                if chance.random() < 0.3 and machine.containers:
                    machine.end(chance.choice(sorted(machine.containers)), 1)
    async with agent_on("n1", "uid-n1", tmp_path, settings, lambda callbacks: works(machine, routes, callbacks)):
        await settled(etcd, routes, release, stored_pb2.AssignmentStatus.SETTLED)
        assert routes.routed(ENV) == set(machine.containers)
        await etcd.put(key, encode(assignment(release + 1, removed=True)))
        await settled(etcd, routes, release + 1, stored_pb2.AssignmentStatus.REMOVED)
    assert not machine.stopped_too_early


async def test_challenges_are_answered_while_the_engine_is_away(etcd: Etcd, settings: Settings, tmp_path: Path) -> None:
    routes = FakeRouter()
    machine = HollowMachine()
    async with agent_on("n1", "uid-n1", tmp_path, settings, lambda callbacks: works(machine, routes, callbacks)):
        await etcd.put(etcd.keys.assignment("n1", ENV), encode(assignment(1, service("web", 1))))
        await settled(etcd, routes, 1, stored_pb2.AssignmentStatus.SETTLED)
        before = routes.routed(ENV)
        machine.leave()
        part = stored_pb2.NodeIngress(
            node="n1",
            node_uid="uid-n1",
            organization=ENV.organization,
            project=ENV.project,
            environment=ENV.environment,
            part=HOST,
        )
        part.challenges.add(token="t1", key_authorization="t1.x")
        await etcd.put(etcd.keys.ingress("n1", ENV, HOST), encode(part))

        async def answered() -> bool:
            site = routes.configs[ENV]
            return site is not None and site.challenges == {HOST: (("t1", "t1.x"),)}

        await eventually("the challenge is answered", answered, seconds=60)
        assert routes.routed(ENV) == before != set()
        machine.come_back()
