"""A container about which the engine does not answer: calls about it are refused, the others are answered."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from devopsellence.api.v1.agent_pb2 import LogsRequest
from devopsellence.nodeagent.docker.errors import ContainerHung
from tests.integration.agentapi.api_node import ENV, ApiNode, command, execute
from tests.support.docker import docker
from tests.support.shim import stopped_shim
from tests.support.until import eventually

pytestmark = pytest.mark.docker


async def test_calls_about_a_hung_container_are_refused_and_others_answered(here: ApiNode) -> None:
    await here.start("web", "sh", "-c", "echo one; exec sleep 1000")
    hung = await here.start("redis", "sleep", "1000")

    async def hangs() -> bool:
        try:
            await here.engine.refresh(hung)
        except ContainerHung:
            return True
        return False

    with stopped_shim(docker("inspect", "-f", "{{.Id}}", hung)):
        # The engine holds its lock on the container while it waits for the shim.
        waiting = await asyncio.create_subprocess_exec("docker", "exec", hung, "true")
        await eventually("it hangs", hangs, seconds=60)
        async with here.client() as stub:
            with pytest.raises(grpc.aio.AioRpcError, match="does not answer about container"):
                await execute(stub, command("redis", "true"))
            result = await execute(stub, command("web", "echo", "two"))
            request = LogsRequest(environment=str(ENV), lines=-1)
            lines = [line async for answer in stub.Logs(request) for line in answer.lines]
    assert result.stdout == b"two\n"
    assert {line.service: line.line for line in lines if not line.stderr} == {"web": b"one"}
    (said,) = [line for line in lines if line.stderr]
    assert said.service == "redis"
    assert b"does not answer about container" in said.line
    assert await waiting.wait() == 0
    await eventually("it answers again", lambda: _is_fine(here, hung))


async def _is_fine(here: ApiNode, container: str) -> bool:
    return container not in here.engine.hung
