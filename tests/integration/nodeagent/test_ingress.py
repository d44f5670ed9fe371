"""Containers with requests: replaced after the last request, and at once if unhealthy."""

from __future__ import annotations

import pytest

from devopsellence.api.v1 import stored_pb2, workload_pb2
from devopsellence.nodeagent.envoy.model import Endpoint
from tests.integration.nodeagent.agent_with_router import agent_of
from tests.support.agent import ENV, AgentNode, Status, reports, service_of, web, worker
from tests.support.docker import docker
from tests.support.fake_router import FakeRouter
from tests.support.until import eventually

pytestmark = pytest.mark.docker

HOST = "app.example.com"
Ingress = stored_pb2.IngressStatus


def ingress(service: str = "web") -> workload_pb2.Ingress:
    made = workload_pb2.Ingress(hosts=[HOST], tls_mode=workload_pb2.Ingress.AUTO)
    made.rules.add(host=HOST, path_prefix="/", service=service, port="http")
    return made


def database(version: str) -> workload_pb2.Service:
    service = worker("db", volume="data", V=version)
    service.ports.add(name="http", port=3000)
    return service


async def routed(routes: FakeRouter, count: int = 1) -> set[str]:
    """Return the routed containers, once there are so many."""

    async def look() -> bool:
        return len(routes.routed(ENV)) == count

    await eventually(f"{count} routed to", look, seconds=60)
    return routes.routed(ENV)


def runs(container: str) -> bool:
    return docker("inspect", "--format", "{{.State.Running}}", container) == "true"


async def test_old_container_stops_after_its_last_request(node: AgentNode) -> None:
    routes = FakeRouter()
    async with agent_of(node, routes):
        await node.assign(web(text="one"), ingress=ingress())
        status = await node.settled(seconds=60)
        (old,) = await routed(routes)
        site = routes.configs[ENV]
        assert site is not None
        assert site.backends[0].endpoints == (Endpoint(old, service_of(status, "web").address, 3000),)
        assert status.ingress.phase == Ingress.SERVING
        assert docker("inspect", "--format", '{{index .Config.Labels "devopsellence.ports"}}', old) == "http=3000"
        await node.assign(web(text="two"), release=2, ingress=ingress())
        status = await node.until(
            "the new one serves",
            lambda seen: "is not stopped yet: 1 request" in service_of(seen, "web").reason,
            seconds=60,
        )
        (new,) = await routed(routes)
        assert (service_of(status, "web").container, status.phase) == (new[:12], Status.CONVERGING)
        assert (routes.draining(ENV), runs(old)) == ({old}, True)
    # Another agent goes on where this one ended.
    async with agent_of(node, routes):
        status = await node.until("it still waits", reports("web", container=new[:12]), seconds=60)
        assert await routed(routes) == {new}
        assert runs(old)
        routes.end_requests(ENV)
        await node.settled(seconds=60)
        assert node.containers() == [new[:12]]


async def test_container_with_volume_drains_before_its_successor_starts(node: AgentNode) -> None:
    routes = FakeRouter()
    async with agent_of(node, routes):
        await node.assign(database("1"), ingress=ingress("db"))
        await node.settled(seconds=60)
        (old,) = await routed(routes)
        await node.assign(database("2"), release=2, ingress=ingress("db"))
        await node.until("it waits", lambda seen: "is not stopped yet" in service_of(seen, "db").reason, seconds=60)
        await routed(routes, 0)
        assert runs(old)
        routes.end_requests(ENV)
        await node.settled(seconds=60)
        (new,) = await routed(routes)
        assert node.containers() == [new[:12]]


async def test_unhealthy_container_is_replaced_despite_active_requests(node: AgentNode) -> None:
    routes = FakeRouter()
    async with agent_of(node, routes):
        await node.assign(web(), ingress=ingress())
        await node.settled(seconds=60)
        (old,) = await routed(routes)
        docker("exec", old, "rm", "/w/up")

        async def replaced() -> set[str]:
            return routes.routed(ENV) - {old}

        (new,) = await eventually("another one is routed to", replaced, seconds=60)
        assert old[:12] not in node.containers()
        assert runs(new)


async def test_removed_service_waits_for_its_last_request(node: AgentNode) -> None:
    routes = FakeRouter()
    async with agent_of(node, routes):
        await node.assign(web(), worker("other"), ingress=ingress())
        await node.settled(seconds=60)
        (old,) = await routed(routes)
        await node.assign(worker("other"), release=2, ingress=ingress())
        status = await node.until(
            "it waits",
            lambda seen: "is not stopped yet" in "".join(service.reason for service in seen.services),
            seconds=60,
        )
        assert status.ingress.phase == Ingress.FAILED
        assert status.ingress.reason == "a rule routes to service web, which is not assigned to this node"
        await node.assign(removed=True)
        await routed(routes, 0)
        assert runs(old)
        routes.end_requests(ENV)
        await node.until("removed", lambda seen: seen.phase == Status.REMOVED, seconds=60)
        assert node.containers() == []
