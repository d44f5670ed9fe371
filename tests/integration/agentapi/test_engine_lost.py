"""The engine goes away in the middle of calls, and comes back."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import grpc
import pytest

from devopsellence.api.v1.agent_pb2 import LogsRequest
from tests.integration.agentapi.api_node import (
    ENV,
    CommandResult,
    api_node,
    command,
    execute,
    first_output,
    read_to_end,
)
from tests.support.docker import docker
from tests.support.host import Host, need_host
from tests.support.until import eventually

pytestmark = pytest.mark.docker


@pytest.fixture
def collected() -> Iterator[None]:
    """Run the garbage collector at the end of the test rather than in another test."""
    yield
    gc.collect()


# The SDK leaves a socket to the collector when it cannot connect.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("collected")
async def test_lost_engine_keeps_logs_and_refuses_commands(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_host()
    with Host(tmp_path_factory.mktemp("host")) as host:
        host.load_image("devopsellence/test:small")
        monkeypatch.setenv("DOCKER_HOST", host.socket)
        async with api_node(tmp_path_factory.mktemp("place"), host.socket) as here:
            # Each start says one more number.
            script = "echo x >> /count; echo $(wc -l < /count); exec sleep 1000"
            container = await here.start("web", "sh", "-c", script)
            async with here.client() as stub:
                following = aiter(stub.Logs(LogsRequest(environment=str(ENV), follow=True, lines=-1)))
                lines = [line.line for line in (await anext(following)).lines]
                call, seen = stub.Exec(), CommandResult()
                await call.write(command("web", "sh", "-c", "echo ready; sleep 1000"))
                await first_output(call, seen)

                await asyncio.to_thread(host.kill_docker)
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await read_to_end(call, seen)
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
                assert ("devopsellence-refused-by", "n1") in list(caught.value.trailing_metadata() or ())
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await execute(stub, command("web", "true"))
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE

                await asyncio.to_thread(host.start_docker)

                async def connected() -> bool:
                    return here.engine.connected

                await eventually("connected again", connected, seconds=30)
                await asyncio.to_thread(docker, "start", container)
                while len(lines) < 2:
                    answer = await asyncio.wait_for(anext(following), 30)
                    lines += [line.line for line in answer.lines]
            assert lines == [b"1", b"2"]
