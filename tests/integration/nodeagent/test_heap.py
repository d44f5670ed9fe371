"""Secrets in the agent's own heap: none once a container has been created, or its creation has failed."""

from __future__ import annotations

import asyncio
import gc
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from devopsellence.age import encrypt
from devopsellence.api.v1 import stored_pb2
from tests.integration.nodeagent.agent_with_router import agent_of
from tests.support.agent import AgentNode, reports, service_of, worker
from tests.support.docker import docker
from tests.support.fake_router import FakeRouter
from tests.support.until import eventually

pytestmark = pytest.mark.docker


class Canary:
    """Secret value, of which the test itself has only the halves."""

    def __init__(self) -> None:
        self._halves = uuid.uuid4().hex, uuid.uuid4().hex

    def encrypted_for(self, recipient: str) -> str:
        return encrypt("".join(self._halves).encode(), [recipient])

    def is_in(self, text: object) -> bool:
        if isinstance(text, str):
            return all(half in text for half in self._halves)
        return isinstance(text, (bytes, bytearray)) and all(half.encode() in text for half in self._halves)

    def found(self) -> list[str]:
        """Return the owners of all copies in the heap: objects that the collector knows, and what they refer to."""
        gc.unfreeze()
        return [
            f"{type(owner).__name__}: {_shown(owner)}"
            for owner in gc.get_objects()
            for held in gc.get_referents(owner)
            if self.is_in(held)
        ]


def _shown(owner: Any) -> str:
    return str(sorted(owner) if isinstance(owner, dict) and all(isinstance(key, str) for key in owner) else owner)[:200]


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Without the collector: what only it would free is not dropped."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def assign(node: AgentNode, canary: Canary, *command: str, memory_mib: int = 0) -> None:
    """Assign a service with the canary as a secret."""

    async def recipient() -> str:
        beat = await node.heartbeat()
        return beat.age_recipient if beat else ""

    service = worker("a", *command)
    service.resources.memory_mib = memory_mib
    service.secret_refs.add(name="PASSWORD", secret="DB_PASSWORD", version=1)
    secret = stored_pb2.SealedSecret(service="a", name="DB_PASSWORD", version=1)
    secret.age = canary.encrypted_for(await eventually("a recipient", recipient))
    await node.assign(service, secrets=[secret])


def test_canary_is_found() -> None:
    canary = Canary()
    kept = ["".join(canary._halves)]
    assert canary.found()
    kept.clear()
    assert canary.found() == []


@pytest.mark.usefixtures("no_collector")
async def test_secret_is_dropped_once_its_container_is_created(node: AgentNode) -> None:
    canary = Canary()
    async with agent_of(node, FakeRouter()):
        await assign(node, canary)
        container = service_of(await node.settled(), "a").container
        assert canary.is_in(docker("inspect", container))
        # Examined and restarted.
        docker("kill", container)
        await node.until("restarted", reports("a", restarts=1))
        await node.settled()
        await eventually("nothing is left", lambda: _none(canary))


@pytest.mark.parametrize(("command", "memory_mib"), [("/no/such/program", 0), ("true", 1)], ids=["start", "create"])
async def test_secret_is_dropped_if_the_engine_refuses(node: AgentNode, command: str, memory_mib: int) -> None:
    canary = Canary()
    async with agent_of(node, FakeRouter()):
        # Docker's minimum is 6 MiB.
        await assign(node, canary, command, memory_mib=memory_mib)
        await node.until("failed", reports("a", failed=True))
        await eventually("nothing is left", lambda: _none_after_collection(canary), seconds=60)


async def _none_after_collection(canary: Canary) -> bool:
    """As :func:`_none`; the error of a refusal may be in a cycle, which the collector frees."""
    gc.collect()
    return await _none(canary)


async def _none(canary: Canary) -> bool:
    found = await asyncio.to_thread(canary.found)
    return found == []
