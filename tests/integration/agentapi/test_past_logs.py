"""Logs of containers that are gone, of a release, and of a release task."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from devopsellence.api.v1.agent_pb2 import LogsRequest
from devopsellence.nodeagent.log_archive import LogArchive
from tests.integration.agentapi.api_node import ENV, ApiNode
from tests.support.docker import docker

pytestmark = pytest.mark.docker


@pytest.fixture
def archive(tmp_path: Path) -> LogArchive:
    """Archive of the node: its state folder is the test's own."""
    return LogArchive(tmp_path / "logs")


async def removed(
    here: ApiNode, archive: LogArchive, service: str, text: str, *, release: int = 1, task: str = ""
) -> str:
    """Run a container to its end, and remove it as the agent does; return the id."""
    container = await here.start(service, "sh", "-c", f"echo {text}", release=release)
    await asyncio.to_thread(docker, "wait", container)
    await here.engine.refresh(container)
    frames = await here.engine.call(lambda client: client.log_tail(container))
    archive.save(replace(here.engine.cache.containers[container], task=task), frames, time.time_ns())
    await here.engine.call(lambda client: client.remove(container))
    here.engine.cache.remove(container)
    return container


async def shown(here: ApiNode, **wanted: object) -> list[str]:
    async with here.client() as stub:
        call = stub.Logs(LogsRequest(environment=str(ENV), lines=-1, **wanted))  # type: ignore[arg-type]
        return [line.line.decode() async for answer in call for line in answer.lines]


async def test_previous_shows_the_last_container_that_is_gone(here: ApiNode, archive: LogArchive) -> None:
    await removed(here, archive, "web", "one", release=1)
    await removed(here, archive, "web", "two", release=2)
    await removed(here, archive, "worker", "three", release=2)
    await here.start("web", "sh", "-c", "echo now; exec sleep 100", release=3)
    assert await shown(here, previous=True) == ["two", "three"]
    assert await shown(here, previous=True, services=["web"]) == ["two"]
    assert await shown(here, previous=True, services=["redis"]) == []


async def test_release_shows_containers_gone_and_present(here: ApiNode, archive: LogArchive) -> None:
    await removed(here, archive, "web", "one", release=1)
    await removed(here, archive, "web", "two", release=2)
    container = await here.start("web", "sh", "-c", "echo again", release=2)
    await asyncio.to_thread(docker, "wait", container)
    await here.engine.refresh(container)
    assert await shown(here, release=1) == ["one"]
    assert await shown(here, release=2) == ["two", "again"]
    assert await shown(here, release=3) == []


async def test_task_shows_its_newest_run(here: ApiNode, archive: LogArchive) -> None:
    await here.start("web", "sleep", "100", release=3)
    await removed(here, archive, "web", "first", release=1, task="migrate")
    await removed(here, archive, "web", "second", release=2, task="migrate")
    assert await shown(here, task="migrate") == ["second"]
    assert await shown(here, task="migrate", release=1) == ["first"]
    assert await shown(here, task="other") == []


async def test_past_cannot_be_followed(here: ApiNode) -> None:
    await here.start("web", "sleep", "100")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await shown(here, previous=True, follow=True)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
