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


async def noted(machine: AgentNode, what: str, holds: Callable[[dict[str, Any]], bool]) -> None:
    path = machine.folder / "state" / "images.json"
    await asyncio.to_thread(until, what, lambda: path.exists() and holds(json.loads(path.read_bytes())))


async def test_ledger_records_releases_and_pulled_images(machine: AgentNode, registry: Registry) -> None:
    env, pinned = str(ENV), registry.pinned
    machine.start()
    await machine.assign(worker("a", image=pinned), worker("b"))
    await machine.settled()
    both = sorted([pinned, small_image()])
    await noted(machine, "the first release", lambda stored: stored["releases"].get(env) == {"1": both})
    await noted(machine, "the pull", lambda stored: list(stored["brought"]) == [pinned])
    # A killed agent goes on from there.
    machine.kill()
    machine.start()
    await machine.assign(worker("b"), release=2)
    await machine.settled()
    two = {"1": both, "2": [small_image()]}
    await noted(machine, "the second release", lambda stored: stored["releases"].get(env) == two)
    await machine.assign(removed=True, release=2)
    await machine.until("removed", lambda status: status.phase == status.REMOVED)
    await machine.etcd.delete(machine.etcd.keys.assignment(machine.node, ENV))
    await noted(machine, "nothing of it stays", lambda stored: stored["releases"] == {} and stored["left"] == both)
