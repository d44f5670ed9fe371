"""A node with a router of its own for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.integration.router.router_node import Client, Connect, Node
from tests.support.envoy import envoy_image


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A node without anything yet, on ports of its own."""
    envoy_image()
    made = Node(tmp_path)
    yield made
    made.clean()


@pytest.fixture
async def connect(node: Node) -> AsyncIterator[Connect]:
    """Makes clients of the node's router, all of whose connections end with the test."""
    made: list[Client] = []

    def connect() -> Client:
        made.append(Client(node.options.http_port))
        return made[-1]

    yield connect
    for client in made:
        client.close()
