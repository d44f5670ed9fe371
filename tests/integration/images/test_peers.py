"""Pull of a missing image from a peer: agents on two engines, mutual TLS."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from devopsellence.api.v1.stored_pb2 import Peer
from devopsellence.store.etcd import Etcd
from tests.support.agent import AgentNode, ServiceStatus, reports, service_of, worker
from tests.support.authority import Authority, settings_with
from tests.support.docker import docker
from tests.support.etcd import EtcdServer
from tests.support.host import Host
from tests.support.images import build_image
from tests.support.relay import Relay
from tests.support.until import eventually, until

MIB = 1 << 20
pytestmark = [pytest.mark.docker, pytest.mark.etcd]


@dataclass
class PeerNodes:
    """Agents with certificates: on this machine's engine, where images are built, and on an engine without images."""

    server: EtcdServer
    etcd: Etcd
    host: Host
    folder: Path
    machines: list[AgentNode]

    def add(self, name: str, *options: str) -> AgentNode:
        """Start an agent of a new node; ``options`` are the agent's."""
        folder = self.folder / name
        folder.mkdir()
        node = AgentNode(self.etcd, self.server.settings(), folder)
        node.name = name
        assert self.server.authority is not None
        node.settings = settings_with(node.settings, self.server.authority.issue_agent(node.uid))
        self.machines.append(node)
        node.start("--api-listen", "127.0.0.1:0", *options)
        return node

    def elsewhere(self, name: str) -> AgentNode:
        """Start an agent of a new node on the other engine."""
        return self.add(name, "--docker-host", self.host.socket)

    def has(self, image: str) -> bool:
        """Return True if the other engine has an image."""
        return image in self.host.docker("images", "-aq", "--no-trunc").split()


async def peer(machine: AgentNode, address: str = "") -> Peer:
    """Return the node as a peer; ``address``: of a relay in front of the agent."""
    beat = await eventually("a heartbeat", machine.heartbeat)
    assert beat is not None
    return Peer(node=machine.name, uid=machine.uid, api_address=address or beat.api_address)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EtcdServer]:
    with EtcdServer(tmp_path / "etcd", authority=Authority(tmp_path / "pki")) as running:
        yield running


@pytest.fixture
async def nodes(server: EtcdServer, host: Host, tmp_path: Path) -> AsyncIterator[PeerNodes]:
    async with Etcd(server.settings(user="root")) as etcd:
        peer_nodes = PeerNodes(server, etcd, host, tmp_path, [])
        try:
            yield peer_nodes
        finally:
            for machine in peer_nodes.machines:
                await asyncio.to_thread(machine.clean)
            if containers := host.docker("ps", "-aq").split():
                host.docker("rm", "-f", *containers)
            if images := host.docker("images", "-aq", "--no-trunc").split():
                host.docker("rmi", "-f", *dict.fromkeys(images))


async def test_node_pulls_missing_image_from_peer_and_serves(nodes: PeerNodes) -> None:
    image = build_image(b"hello\n", 3 * MIB)
    # As a deploy names it: the name goes along.
    name = f"devopsellence/shop-0a1b2c:{image[7:19]}"
    docker("tag", image, name)
    n1, n2 = nodes.add("n1"), nodes.elsewhere("n2")
    await n1.assign(worker("a", image=image))
    await n1.settled()
    # Without anybody to ask it is as it always was.
    await n2.assign(worker("a", image=image))
    status = await n2.until("has given up", reports("a", failed=True))
    assert "an image id cannot be pulled" in service_of(status, "a").reason
    # Told of somebody, it tries at once, and what it could not do before does not count.
    await n2.assign(worker("a", image=image), peers=[await peer(n1)])
    status = await n2.settled()
    assert (service_of(status, "a").failed, service_of(status, "a").restarts) == (False, 0)
    assert nodes.host.docker("image", "inspect", "-f", "{{.Id}}", name) == image
    assert nodes.host.docker("run", "--rm", "--network", "none", image, "cat", "/f0") == "hello"
    (line,) = n2.lines("image pulled from a peer")
    assert (line["image"], line["peer"]) == (image, "n1")
    until("it is noted for later", lambda: image in (n2.folder / "state" / "images.json").read_text())


async def test_peer_without_the_image_is_skipped(nodes: PeerNodes) -> None:
    image, other = build_image(b"the one\n"), build_image(b"another\n")
    n1, n2, n3 = nodes.add("n1"), nodes.elsewhere("n2"), nodes.add("n3")
    await n1.assign(worker("a", image=other))
    await n3.assign(worker("a", image=image))
    await n1.settled()
    await n3.settled()
    gone = Peer(node="n4", uid="somebody", api_address="127.0.0.1:9")
    # Another machine answers at the address that is n3's.
    taken = Peer(node="n5", uid="replaced", api_address=(await peer(n3)).api_address)
    await n2.assign(worker("a", image=image), peers=[gone, taken, await peer(n1)])
    status = await n2.until("backs off", reports("a", phase=ServiceStatus.BACKOFF))
    reason = service_of(status, "a").reason
    assert f"n1: node n1 is not assigned image {image}" in reason
    assert "n4: does not answer" in reason
    assert "n5: does not answer" in reason
    assert not nodes.has(image)
    await n2.assign(worker("a", image=image), peers=[gone, taken, await peer(n3)])
    await n2.settled()


class LimitedRelay(Relay):
    """Lets some bytes of answers through, and no more: ``choked`` is set then."""

    def __init__(self, port: int, limit: int) -> None:
        super().__init__(port)
        self._left = limit
        self.choked = asyncio.Event()

    async def _pass_on(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, answers: bool) -> None:
        while data := await source.read(65536):
            if answers:
                self._left -= len(data)
                if self._left < 0:
                    self.choked.set()
                    await asyncio.Event().wait()
            target.write(data)
            await target.drain()


async def test_peer_dying_midway_leaves_nothing_and_next_is_asked(nodes: PeerNodes) -> None:
    image = build_image(24 * MIB)
    n1, n2, n3 = nodes.add("n1"), nodes.elsewhere("n2"), nodes.add("n3")
    for each in (n1, n3):
        await each.assign(worker("a", image=image))
        await each.settled()
    first = await peer(n1)
    async with LimitedRelay(int(first.api_address.rpartition(":")[2]), 8 * MIB) as between:
        await n2.assign(worker("a", image=image), peers=[await peer(n1, between.endpoint)])
        await asyncio.wait_for(between.choked.wait(), 30)
        status = await n2.until("says how far it is", lambda status: "n1" in service_of(status, "a").reason)
        assert service_of(status, "a").phase == ServiceStatus.PULLING
        assert service_of(status, "a").reason.startswith(f"fetching image {image}: ")
        n1.kill(signal.SIGKILL)
        between.cut()
        status = await n2.until("backs off", reports("a", phase=ServiceStatus.BACKOFF))
        assert not nodes.has(image)
        assert nodes.host.docker("images", "-aq") == ""
        # Both, and the one that failed first: nothing is waited for.
        await n2.assign(worker("a", image=image), peers=[await peer(n1, between.endpoint), await peer(n3)])
        await n2.settled()
    assert [line["peer"] for line in n2.lines("image pulled from a peer")] == ["n3"]


async def test_broken_transfer_continues_with_next_peer_in_same_attempt(nodes: PeerNodes) -> None:
    image = build_image(24 * MIB)
    n1, n2, n3 = nodes.add("n1"), nodes.elsewhere("n2"), nodes.add("n3")
    for each in (n1, n3):
        await each.assign(worker("a", image=image), worker("b", image=image))
        await each.settled()
    first = await peer(n1)
    async with LimitedRelay(int(first.api_address.rpartition(":")[2]), 8 * MIB) as between:
        both = [await peer(n1, between.endpoint), await peer(n3)]
        await n2.assign(worker("a", image=image), worker("b", image=image), peers=both)
        await asyncio.wait_for(between.choked.wait(), 30)
        between.cut()
        await n2.settled()
    # For two services once.
    assert [line["peer"] for line in n2.lines("image pulled from a peer")] == ["n3"]
    assert [line["peer"] for line in n2.lines("cannot pull an image from a peer")] == ["n1"]
