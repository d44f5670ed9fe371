"""Failures around Envoy, and recovery: kills, taken ports, missing images, host conflicts."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from devopsellence.nodeagent.ingress import ports, router
from tests.integration.router.router_node import (
    HOST,
    OTHER,
    REF,
    Connect,
    RouterNode,
    RunningRouter,
    certificate,
    routed,
    service,
)
from tests.support.docker import docker
from tests.support.read_only import make_read_only, make_writable, need_mounts
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


async def test_container_is_held_until_envoy_could_be_told(
    node: RouterNode, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_mounts()
    monkeypatch.setattr(router, "FAILURE_PAUSE_SECONDS", 0.5)
    async with service("one") as one, service("two") as two, node.router() as running:
        running.router.set_routing(REF, routed(one, drain_seconds=0.1))
        await running.serves()
        async with _read_only(running, node.folder):
            running.router.set_routing(REF, routed(two, drain_seconds=0.1))
            await running.until("it is told", lambda: running.router.status(REF).failed)
            assert "cannot be written" in running.router.status(REF).reason
            # Long after the time for requests, and with Envoy started again by somebody.
            docker("restart", "-t", "0", *node.containers())
            await eventually("it answers again", lambda: _answers(connect, "one"))
            assert running.router.held(REF) == {"one": "is being taken out of service", "two": "serves"}
            # Back to where it was: nothing has been told of the other.
            running.router.set_routing(REF, routed(one, drain_seconds=0.1))
            await running.until("only one is held", lambda: running.router.held(REF) == {"one": "serves"})
            running.router.set_routing(REF, routed(two, drain_seconds=0.1))
        await running.until("the other alone is held", lambda: running.router.held(REF) == {"two": "serves"})
        assert await connect().get() == (200, "two")
        await running.serves()


@pytest.mark.parametrize("gone", ["config", "config/lds.json", "run", ""], ids=["config", "a file", "run", "all"])
async def test_envoy_goes_on_when_its_files_were_removed(node: RouterNode, connect: Connect, gone: str) -> None:
    async with service("one") as one, service("two") as two, node.router() as running:
        running.router.set_routing(REF, routed(one))
        await running.serves()
        before = node.containers()
        place = node.folder / "envoy" / gone
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink()
        running.files.check()
        running.router.folder_changed()
        running.router.set_routing(REF, routed(two))
        await running.until("the other alone is held", lambda: running.router.held(REF) == {"two": "serves"})
        await running.serves()
        assert await connect().get() == (200, "two")
        await eventually("one Envoy runs", lambda: asyncio.to_thread(lambda: len(node.containers()) == 1))
        assert (node.containers() == before) is (gone == "config/lds.json")


@pytest.mark.parametrize("damage", [b"", None], ids=["empty", "removed"])
async def test_damaged_files_of_an_agent_that_is_down_interrupt_nothing(
    node: RouterNode, connect: Connect, damage: bytes | None
) -> None:
    other = replace(routed(), ref=OTHER, hosts=("other.example",), routes=(), backends=())
    async with service("one") as one, service("two") as two:
        async with node.router() as running:
            running.router.set_routing(REF, routed(one))
            running.router.set_routing(OTHER, other)
            await running.serves()
        before = node.containers()
        for path in [node.folder / "envoy" / "ports.json", *(node.folder / "envoy" / "kept").glob("*production*")]:
            path.unlink() if damage is None else path.write_bytes(damage)
        async with node.router() as running:
            running.router.set_routing(OTHER, replace(other, drain_seconds=5.0))
            if damage is not None:
                await running.until("it waits", lambda: running.router.status(OTHER).failed)
                assert "acme/shop/production is damaged" in running.router.status(OTHER).reason
                assert await connect().get() == (200, "one")
            running.router.set_routing(REF, routed(one))
            await running.serves()
            assert running.router.status(REF).http_port == node.options.http_port
            running.router.set_routing(REF, routed(two))
            await running.until("the other alone is held", lambda: running.router.held(REF) == {"two": "serves"})
            assert await connect().get() == (200, "two")
            assert node.containers() == before


async def test_damaged_snapshot_of_an_environment_that_left_is_forgotten(node: RouterNode) -> None:
    async with service("one") as one:
        async with node.router() as running:
            running.router.set_routing(REF, routed(one))
            running.router.set_routing(OTHER, replace(routed(one), ref=OTHER, hosts=("other.example",)))
            await running.serves()
        (snapshot,) = (node.folder / "envoy" / "kept").glob("*staging*")
        snapshot.write_bytes(b"")
        async with node.router() as running:
            running.router.set_routing(REF, replace(routed(one), drain_seconds=5.0))
            await running.until("it waits", lambda: running.router.status(REF).failed)
            running.router.assignments_listed([REF])
            await running.until("it serves", lambda: not running.router.status(REF).failed)


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
            await eventually("it was made again", lambda: _answers(connect, "one"))
            (again,) = set(node.containers()) - {copy[:12]}
            assert docker("inspect", "-f", "{{.Name}}", again) == f"/{name}-2"
        finally:
            docker("rm", "-f", copy)
            docker("rmi", "-f", f"{name}:copy")


@asynccontextmanager
async def _read_only(running: RunningRouter, folder: Path) -> AsyncIterator[None]:
    await running.disk.run(lambda: make_read_only(folder))
    yield
    await running.disk.run(lambda: make_writable(folder))
    running.router.folder_changed()


async def _answers(connect: Connect, name: str) -> bool:
    """Ask on a connection that does not stay open."""
    client = connect()
    answer = await client.get()
    client.close()
    return answer == (200, name)


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
            client = connect()
            slow = asyncio.create_task(client.get("/slow"))
            await web.begun.wait()
        before = node.containers()
        await asyncio.to_thread(_another_image, node)
        async with node.router() as running:
            running.router.set_routing(REF, routed(web))
            await running.serves()
            await eventually("the next stands beside the last", lambda: asyncio.to_thread(lambda: _two(node)))
            assert await _answers(connect, "one")
            web.release.set()
            assert await slow == (200, "one")
            client.close()
            await eventually("the last is gone", lambda: asyncio.to_thread(lambda: _only_another(node, before)))
            assert await _answers(connect, "one")


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


async def test_host_stays_with_the_environment_that_holds_it(node: RouterNode, connect: Connect) -> None:
    async with service("one") as web, service("two") as two, node.router() as running:
        running.router.set_routing(OTHER, replace(routed(two), ref=OTHER, held_hosts=(HOST,)))
        await eventually("the holder is served", lambda: _answers(connect, "two"))
        running.router.set_routing(REF, routed(web))
        await running.until("the other is refused", lambda: running.router.status(REF).failed)
        assert [await connect().get() for _ in range(20)] == [(200, "two")] * 20
        status = running.router.status(REF)
        assert f"host {HOST} belongs to {OTHER} on this node" in status.reason
        running.router.set_routing(OTHER, None)
        await eventually("the host is free", lambda: _answers(connect, "one"))


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


async def test_routing_set_while_ports_are_checked_is_written(
    node: RouterNode, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked, routed_anew = threading.Event(), threading.Event()

    def slow_check(family: int, address: str, port: int) -> None:
        checked.set()
        assert routed_anew.wait(20)

    monkeypatch.setattr(ports, "_try_listen", slow_check)
    async with service("one") as web, node.router() as running:
        running.router.set_routing(REF, routed())
        assert await asyncio.to_thread(checked.wait, 20)
        running.router.set_routing(REF, routed(web))
        routed_anew.set()
        await running.serves()
        assert await connect().get() == (200, "one")


async def test_lost_folder_interrupts_nothing(node: RouterNode, connect: Connect) -> None:
    other = replace(routed(), ref=OTHER, hosts=("other.example",), routes=(), backends=())
    async with service("one") as one, service("two") as two:
        async with node.router() as running:
            running.router.set_routing(REF, routed(one))
            running.router.set_routing(OTHER, other)
            await running.serves()
        shutil.rmtree(node.folder / "envoy")
        async with node.router() as running:
            running.router.set_routing(OTHER, other)
            running.router.assignments_listed([REF, OTHER])
            # No container of it was probed yet.
            running.router.set_routing(REF, routed())
            await running.until("it waits", lambda: "acme/shop/production" in running.router.status(OTHER).reason)
            assert await connect().get() == (200, "one")
            running.router.set_routing(REF, routed(one))
            await running.serves()
            running.router.set_routing(REF, routed(two))
            await running.until("the other alone is held", lambda: running.router.held(REF) == {"two": "serves"})
            assert await connect().get() == (200, "two")
            await eventually("one Envoy runs", lambda: asyncio.to_thread(lambda: len(node.containers()) == 1))
