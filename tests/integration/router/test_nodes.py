"""Two nodes that serve the same host, and forward requests to their peer."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from devopsellence.agent_identity import server_name
from devopsellence.nodeagent.envoy.container import CONFIG
from tests.integration.router.router_node import REF, Connect, RouterNode, routed, service
from tests.support.until import eventually


@pytest.fixture
def other(node: RouterNode, tmp_path: Path) -> Iterator[RouterNode]:
    """Return a second node."""
    folder = tmp_path / "other"
    folder.mkdir()
    router_node = RouterNode(folder)
    yield router_node
    router_node.clean()


async def test_node_without_container_forwards_to_its_peer(
    node: RouterNode, other: RouterNode, connect: Connect
) -> None:
    mine, theirs = node.identify(), other.identify()
    async with service("there") as there, service("here") as here, node.router() as near, other.router() as far:
        far.router.set_routing(REF, routed(there, peers=(mine,)))
        near.router.set_routing(REF, routed(peers=(theirs,)))
        await far.until("the other is reached", lambda: other.reachable == other.options.peer_address)
        await near.serves()

        async def answered_by(name: str) -> bool:
            return await connect().get() == (200, name)

        await eventually("the other answers", lambda: answered_by("there"))

        near.router.set_routing(REF, routed(here, peers=(theirs,)))
        await eventually("this one answers", lambda: answered_by("here"))

        far.router.set_routing(REF, None)
        await far.until("it is not reached any more", lambda: other.reachable == "")


async def test_new_certificate_of_the_router_is_used_and_reported(node: RouterNode) -> None:
    node.identify()
    former = node.folder / "envoy" / CONFIG / "node"
    former.mkdir(parents=True)
    (former / "tls.key").write_text("of the node, from an earlier version")
    async with service("one") as web, node.router() as running:
        await running.until("it is reported without an Envoy", lambda: node.used == node.peer_tls)
        running.router.set_routing(REF, routed(web))
        await running.serves()
        assert not former.exists()
        host, _, port = node.options.peer_address.rpartition(":")
        first = await asyncio.to_thread(ssl.get_server_certificate, (host, int(port)))
        again = node.new_peer_tls()
        running.router.set_peer_tls(again)
        await running.until("the new one is used", lambda: node.used == again)
        second = await asyncio.to_thread(ssl.get_server_certificate, (host, int(port)))
    assert node.peer_tls is not None
    assert node.peer_tls.certificate.startswith(first)
    assert again.certificate.startswith(second)


async def test_envoy_accepts_the_certificates_of_a_thousand_nodes(node: RouterNode) -> None:
    peer = node.identify()
    names = tuple(server_name(f"{number:032x}") for number in range(1_000))
    async with service("one") as web, node.router() as running:
        running.router.set_routing(REF, routed(web, forwarders=names, peers=(replace(peer, server_name=names[0]),)))
        await running.serves()
        assert not running.router.status(REF).failed
