"""Two nodes that serve the same host: one answers through the other while nothing of its own is there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.router.router_node import ENV, Connect, Node, eventually, service, site


@pytest.fixture
def other(node: Node, tmp_path: Path) -> Iterator[Node]:
    """Another node. Both have certificates."""
    folder = tmp_path / "other"
    folder.mkdir()
    made = Node(folder)
    yield made
    made.clean()


async def test_a_node_without_a_container_answers_through_another(node: Node, other: Node, connect: Connect) -> None:
    mine, theirs = node.identify(), other.identify()
    async with service("there") as there, service("here") as here, node.router() as near, other.router() as far:
        far.router.set_routing(ENV, site(there, peers=(mine,)))
        near.router.set_routing(ENV, site(peers=(theirs,)))
        await far.until("the other is reached", lambda: other.reachable == other.options.peer_address)
        await near.serves()

        async def answered_by(name: str) -> bool:
            return await connect().get() == (200, name)

        await eventually("the other answers", lambda: answered_by("there"))

        near.router.set_routing(ENV, site(here, peers=(theirs,)))
        await eventually("this one answers", lambda: answered_by("here"))

        far.router.set_routing(ENV, None)
        await far.until("it is not reached any more", lambda: other.reachable == "")
