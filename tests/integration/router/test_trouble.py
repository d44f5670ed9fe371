"""Failures around Envoy, and recovery: kills, taken ports, missing images, host conflicts."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from dataclasses import replace

import pytest

from devopsellence.nodeagent.ingress import ports
from tests.integration.router.router_node import OTHER, REF, Connect, RouterNode, certificate, routed, service
from tests.support.docker import docker
from tests.support.until import eventually


def _kill(node: RouterNode) -> None:
    """Kill Envoy, as the kernel does when out of memory."""
    pid = int(docker("inspect", "-f", "{{.State.Pid}}", *node.containers()))
    os.kill(pid, signal.SIGKILL)


async def test_killed_envoy_is_restarted(node: RouterNode, connect: Connect) -> None:
    async with service("one") as web:
        async with node.router() as running:
            running.router.set_routing(REF, routed(web))
            await running.serves()

        async def answers() -> bool:
            return await connect().get() == (200, "one")

        _kill(node)
        await eventually("it answers again", answers)

        async with node.router() as running:
            running.router.set_routing(REF, routed(web))
            await running.serves()
            _kill(node)
            await eventually("it answers again", answers)
            # Docker treats a kill through its API as a stop, and does not restart the container.
            docker("kill", *node.containers())
            await eventually("it was started again", answers)
            docker("rm", "-f", *node.containers())
            await eventually("it was made again", answers)
            await running.serves()


async def test_copy_of_envoy_is_left_alone_and_its_taken_name_passed_over(node: RouterNode, connect: Connect) -> None:
    async with service("one") as web, node.router() as running:
        running.router.set_routing(REF, routed(web))
        await running.serves()
        (envoy,) = node.containers()
        name = docker("inspect", "-f", "{{.Name}}", envoy).lstrip("/")
        docker("commit", "--pause=false", envoy, f"{name}:copy")
        docker("rename", envoy, f"{name}-mine")
        copy = docker("create", "--name", name, f"{name}:copy")
        try:
            await running.until("it is named", lambda: f"container {name} carries" in running.router.status(REF).reason)
            assert running.router.status(REF).serving
            docker("rm", "-f", envoy)

            async def answers() -> bool:
                return await connect().get() == (200, "one")

            await eventually("it was made again", answers)
            (again,) = set(node.containers()) - {copy[:12]}
            assert docker("inspect", "-f", "{{.Name}}", again) == f"/{name}-2"
        finally:
            docker("rm", "-f", copy)
            docker("rmi", "-f", f"{name}:copy")


async def test_taken_port_is_reported_and_free_port_serves(
    node: RouterNode, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ports, "RETRY_CAP", 0.1)
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", node.options.https_port))
        holder.listen()
        async with service("one") as web, node.router() as running:
            running.router.set_routing(REF, routed(web, tls=True, certificates=certificate()))
            await running.serves()
            status = running.router.status(REF)
            assert status.failed
            assert status.reason.startswith(f"port {node.options.https_port} is taken by ")
            assert status.reason.endswith("free it, or start the agent with another --ingress-https-port")
            assert (status.http_port, status.https_port) == (node.options.http_port, 0)
            assert await connect().get() == (200, "one")

            holder.close()
            await running.until("it heals", lambda: not running.router.status(REF).failed)
            await running.until("it listens", lambda: running.router.status(REF).certificates == {"shop.example": "ab"})
            assert running.router.status(REF).https_port == node.options.https_port


async def test_disabled_ports_hold_nothing_and_run_no_envoy(node: RouterNode) -> None:
    with socket.socket() as holder:
        holder.bind(("0.0.0.0", node.options.http_port))  # noqa: S104
        holder.listen()
        async with service("one") as web, node.router() as running:
            running.router.set_routing(REF, routed(web))
            await running.until("it is told", lambda: running.router.status(REF).failed)
            status = running.router.status(REF)
            assert (status.serving, status.http_port) == (False, 0)
            assert f"port {node.options.http_port} is taken" in status.reason
            assert running.router.held(REF) == {}
            assert node.containers() == []


async def test_missing_image_is_reported(node: RouterNode) -> None:
    node.options = replace(node.options, image=f"sha256:{'0' * 64}")
    async with service("one") as web, node.router() as running:
        running.router.set_routing(REF, routed(web))
        await running.until("it is told", lambda: running.router.status(REF).failed)
        assert "load it, or set another with --envoy-image" in running.router.status(REF).reason
        assert running.router.held(REF) == {}


async def test_changed_image_replaces_envoy_without_losing_requests(node: RouterNode, connect: Connect) -> None:
    async with service("one") as web:
        async with node.router() as running:
            running.router.set_routing(REF, routed(web))
            await running.serves()
            slow = asyncio.create_task(connect().get("/slow"))
            await web.begun.wait()
        before = node.containers()
        await asyncio.to_thread(_another_image, node)
        async with node.router() as running:
            running.router.set_routing(REF, routed(web))
            await running.serves()
            await eventually("the next stands beside the last", lambda: asyncio.to_thread(lambda: _two(node)))
            assert await connect().get() == (200, "one")
            web.release.set()
            assert await slow == (200, "one")
            await eventually("the last is gone", lambda: asyncio.to_thread(lambda: _only_another(node, before)))
            assert await connect().get() == (200, "one")


def _another_image(node: RouterNode) -> None:
    """Give the node the same image under a name that no container uses yet."""
    name = docker("inspect", "-f", "{{.Config.Image}}", *node.containers())
    node.options = replace(node.options, image=docker("image", "inspect", "-f", "{{.Id}}", name))


def _two(node: RouterNode) -> bool:
    return len(node.containers()) == 2


def _only_another(node: RouterNode, before: list[str]) -> bool:
    after = node.containers()
    return len(after) == 1 and after != before


async def test_host_conflict_is_reported_to_second_environment(node: RouterNode, connect: Connect) -> None:
    async with service("one") as web, service("two") as two, node.router() as running:
        running.router.set_routing(OTHER, replace(routed(two), ref=OTHER))
        running.router.set_routing(REF, routed(web))
        await running.serves()
        assert await connect().get() == (200, "one")
        status = running.router.status(OTHER)
        assert status.failed
        assert "host shop.example belongs to acme/shop/production on this node" in status.reason


async def test_envoy_runs_with_least_privileges(node: RouterNode) -> None:
    async with service("one") as web, node.router() as running:
        running.router.set_routing(REF, routed(web, tls=True, certificates=certificate()))
        await running.serves()
        document = json.loads(docker("inspect", *node.containers()))[0]
        host = document["HostConfig"]
        assert host["ReadonlyRootfs"]
        assert (host["CapDrop"], host["CapAdd"]) == (["ALL"], ["NET_BIND_SERVICE"])
        folder = node.folder / "envoy"
        loose = [path for path in [folder, *folder.rglob("*")] if path.stat().st_mode & 0o077 and not path.is_socket()]
        assert loose == []
        assert "PRIVATE KEY" not in json.dumps(document)
        assert "BEGIN" in (folder / "config" / "lds.json").read_text()
