"""What goes wrong around Envoy, and that it heals: ends, taken ports, missing images, other programs' doings."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from dataclasses import replace

import pytest

from devopsellence.nodeagent.ingress import ports
from tests.integration.router.router_node import (
    ENV,
    OTHER,
    Connect,
    Node,
    certificate,
    docker,
    eventually,
    service,
    site,
)


def _kill(node: Node) -> None:
    """End Envoy as the kernel would for want of memory."""
    pid = int(docker("inspect", "-f", "{{.State.Pid}}", *node.containers()))
    os.kill(pid, signal.SIGKILL)


async def test_a_killed_envoy_comes_back_without_and_with_the_agent(node: Node, connect: Connect) -> None:
    async with service("one") as one:
        async with node.router() as routing:
            routing.router.set_routing(ENV, site(one))
            await routing.serves()

        async def answers() -> bool:
            return await connect().get() == (200, "one")

        _kill(node)
        await eventually("it answers again", answers)

        async with node.router() as routing:
            routing.router.set_routing(ENV, site(one))
            await routing.serves()
            _kill(node)
            await eventually("it answers again", answers)
            # To the engine that is as good as a stop: it would leave it so.
            docker("kill", *node.containers())
            await eventually("it was started again", answers)
            docker("rm", "-f", *node.containers())
            await eventually("it was made again", answers)
            await routing.serves()


async def test_a_taken_port_is_named_and_the_other_serves(
    node: Node, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ports, "RETRY_CAP", 0.1)
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", node.options.https_port))
        holder.listen()
        async with service("one") as one, node.router() as routing:
            routing.router.set_routing(ENV, site(one, tls=True, certificates=certificate()))
            await routing.serves()
            status = routing.router.status(ENV)
            assert status.failed
            assert status.reason.startswith(f"port {node.options.https_port} is taken by ")
            assert status.reason.endswith("free it, or start the agent with another --ingress-https-port")
            assert (status.http_port, status.https_port) == (node.options.http_port, 0)
            assert await connect().get() == (200, "one")

            holder.close()
            await routing.until("it heals", lambda: not routing.router.status(ENV).failed)
            await routing.until("it listens", lambda: routing.router.status(ENV).certificates == {"shop.example": "ab"})
            assert routing.router.status(ENV).https_port == node.options.https_port


async def test_disabled_ports_hold_nothing_and_run_no_envoy(node: Node) -> None:
    with socket.socket() as holder:
        holder.bind(("0.0.0.0", node.options.http_port))  # noqa: S104
        holder.listen()
        async with service("one") as one, node.router() as routing:
            routing.router.set_routing(ENV, site(one))
            await routing.until("it is told", lambda: routing.router.status(ENV).failed)
            status = routing.router.status(ENV)
            assert (status.serving, status.http_port) == (False, 0)
            assert f"port {node.options.http_port} is taken" in status.reason
            assert routing.router.held(ENV) == {}
            assert node.containers() == []


async def test_a_missing_image_is_named(node: Node) -> None:
    node.options = replace(node.options, image=f"sha256:{'0' * 64}")
    async with service("one") as one, node.router() as routing:
        routing.router.set_routing(ENV, site(one))
        await routing.until("it is told", lambda: routing.router.status(ENV).failed)
        assert "load it, or set another with --envoy-image" in routing.router.status(ENV).reason
        assert routing.router.held(ENV) == {}


async def test_another_configuration_is_served_by_another_envoy(node: Node, connect: Connect) -> None:
    async with service("one") as one:
        async with node.router() as routing:
            routing.router.set_routing(ENV, site(one))
            await routing.serves()
            slow = asyncio.create_task(connect().get("/slow"))
            await one.begun.wait()
        before = node.containers()
        await asyncio.to_thread(_another_image, node)
        async with node.router() as routing:
            routing.router.set_routing(ENV, site(one))
            await routing.serves()
            await eventually("the next stands beside the last", lambda: asyncio.to_thread(lambda: _two(node)))
            assert await connect().get() == (200, "one")
            one.release.set()
            assert await slow == (200, "one")
            await eventually("the last is gone", lambda: asyncio.to_thread(lambda: _only_another(node, before)))
            assert await connect().get() == (200, "one")


def _another_image(node: Node) -> None:
    """The same image under a name that nothing runs from yet."""
    name = docker("inspect", "-f", "{{.Config.Image}}", *node.containers())
    node.options = replace(node.options, image=docker("image", "inspect", "-f", "{{.Id}}", name))


def _two(node: Node) -> bool:
    return len(node.containers()) == 2


def _only_another(node: Node, before: list[str]) -> bool:
    after = node.containers()
    return len(after) == 1 and after != before


async def test_a_host_of_two_environments_is_the_first_ones(node: Node, connect: Connect) -> None:
    async with service("one") as one, service("two") as two, node.router() as routing:
        routing.router.set_routing(OTHER, replace(site(two), env=OTHER))
        routing.router.set_routing(ENV, site(one))
        await routing.serves()
        assert await connect().get() == (200, "one")
        status = routing.router.status(OTHER)
        assert status.failed
        assert "host shop.example belongs to acme/shop/production on this node" in status.reason


async def test_envoy_gets_no_more_than_it_needs(node: Node) -> None:
    async with service("one") as one, node.router() as routing:
        routing.router.set_routing(ENV, site(one, tls=True, certificates=certificate()))
        await routing.serves()
        found = json.loads(docker("inspect", *node.containers()))[0]
        host = found["HostConfig"]
        assert host["ReadonlyRootfs"]
        assert (host["CapDrop"], host["CapAdd"]) == (["ALL"], ["NET_BIND_SERVICE"])
        folder = node.folder / "envoy"
        loose = [path for path in [folder, *folder.rglob("*")] if path.stat().st_mode & 0o077 and not path.is_socket()]
        assert loose == []
        assert "PRIVATE KEY" not in json.dumps(found)
        assert "BEGIN" in (folder / "config" / "lds.json").read_text()
