"""Fixtures: a node with a router per test, and clients of the router."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.integration.router.router_node import Client, Connect, RouterNode
from tests.support.envoy import envoy_image


@pytest.fixture
def node(tmp_path: Path) -> Iterator[RouterNode]:
    """Return a node without containers, with ports of its own."""
    envoy_image()
    router_node = RouterNode(tmp_path)
    yield router_node
    router_node.clean()


@pytest.fixture
async def connect(node: RouterNode) -> AsyncIterator[Connect]:
    """Return a factory of clients of the node's router, closed at the end of the test."""
    clients: list[Client] = []

    def connect() -> Client:
        clients.append(Client(node.options.http_port))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()
