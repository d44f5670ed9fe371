"""Ledger of images, by which the agent decides on garbage collection."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.integration.nodeagent.test_pull import Registry
from tests.support.agent import ENV, AgentNode, worker
from tests.support.docker import docker
from tests.support.images import small_image
from tests.support.until import until

pytestmark = pytest.mark.docker


@pytest.fixture
def registry() -> Iterator[Registry]:
    made = Registry()
    made.there.set()
    yield made
    made.server.shutdown()
    made.server.server_close()
    docker("rmi", "-f", made.pinned, check=False)


async def noted(node: AgentNode, what: str, holds: Callable[[dict[str, Any]], bool]) -> None:
    path = node.folder / "state" / "images.json"
    await asyncio.to_thread(until, what, lambda: path.exists() and holds(json.loads(path.read_bytes())))


async def test_ledger_records_releases_and_pulled_images(node: AgentNode, registry: Registry) -> None:
    env, pinned = str(ENV), registry.pinned
    node.start()
    await node.assign(worker("a", image=pinned), worker("b"))
    await node.settled()
    both = sorted([pinned, small_image()])
    await noted(node, "the first release", lambda stored: stored["releases"].get(env) == {"1": both})
    await noted(node, "the pull", lambda stored: list(stored["brought"]) == [pinned])
    # A killed agent goes on from there.
    node.kill()
    node.start()
    await node.assign(worker("b"), release=2)
    await node.settled()
    two = {"1": both, "2": [small_image()]}
    await noted(node, "the second release", lambda stored: stored["releases"].get(env) == two)
    await node.assign(removed=True, release=2)
    await node.until("removed", lambda status: status.phase == status.REMOVED)
    await node.etcd.delete(node.etcd.keys.assignment(node.name, ENV))
    await noted(node, "nothing of it stays", lambda stored: stored["releases"] == {} and stored["left"] == both)
