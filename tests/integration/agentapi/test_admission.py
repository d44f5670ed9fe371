"""Hostile callers: calls and connections that say nothing cost nobody else the API."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from devopsellence.agent_identity import server_name
from devopsellence.api.v1.agent_pb2 import DiagnoseRequest, FetchImageRequest, ImagePart, LogsRequest
from devopsellence.api.v1.agent_pb2_grpc import AgentStub, PeersStub
from devopsellence.nodeagent.api import admission, peers, server
from devopsellence.nodeagent.docker.engine import SAVES
from tests.integration.agentapi.api_node import ENV, NODE, ApiNode, command, execute
from tests.support.agent import worker
from tests.support.images import build_image, small_image

pytestmark = pytest.mark.docker
SILENT_CALLS = 200
SILENT_CONNECTIONS = 500
CALLS = ("Agent/Logs", "Agent/Exec", "Agent/Diagnose", "Agent/SendLayer", "Peers/FetchImage", "Other/Call")
Silent = grpc.aio.StreamStreamCall[bytes, bytes]


@asynccontextmanager
async def channel(here: ApiNode, name: str) -> AsyncIterator[grpc.aio.Channel]:
    """Open a channel of its own with a certificate of this common name."""
    files = here.authority.issue(name)
    credentials = grpc.ssl_channel_credentials(
        here.authority.ca_cert.read_bytes(), files.key.read_bytes(), files.certificate.read_bytes()
    )
    options = [("grpc.ssl_target_name_override", server_name(here.uid)), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel(here.address, credentials, options=options) as connection:
        yield connection


def silent_call(connection: grpc.aio.Channel, name: str) -> Silent:
    """Begin a call, of whatever kind it is, and send no message."""
    call: Any = connection.stream_stream(f"/devopsellence.api.v1.{name}")()
    return call  # type: ignore[no-any-return]


async def code_of(call: Silent) -> grpc.StatusCode:
    """Return the code with which the agent ends a call."""
    return await call.code()


@asynccontextmanager
async def silent_connections(here: ApiNode, name: str, count: int) -> AsyncIterator[list[asyncio.StreamReader]]:
    """Open connections that say nothing, every other one after a TLS handshake with the certificate of ``name``."""
    files = here.authority.issue(name)
    context = ssl.create_default_context(cafile=str(here.authority.ca_cert))
    context.load_cert_chain(files.certificate, files.key)
    context.set_alpn_protocols(["h2"])
    host, _, port = here.address.rpartition(":")
    readers, writers = [], []
    try:
        for number in range(count):
            secure = {"ssl": context, "server_hostname": server_name(here.uid)} if number % 2 else {}
            reader, writer = await asyncio.open_connection(host, int(port), **secure)  # type: ignore[arg-type]
            readers.append(reader)
            writers.append(writer)
        yield readers
    finally:
        for writer in writers:
            writer.transport.abort()


async def fetched(here: ApiNode, name: str, image: str) -> int:
    """Return the number of bytes that a node gets of an image."""
    async with channel(here, name) as connection:
        stub: Any = PeersStub(connection)
        return sum([len(part.data) async for part in stub.FetchImage(FetchImageRequest(image=image))])


async def test_silent_node_holds_the_api_of_nobody_else(here: ApiNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "FIRST_MESSAGE_SECONDS", 600.0)
    here.assign(worker("web"))
    await here.start("web", "sh", "-c", "echo line; sleep 1000")
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(silent_connections(here, "node:silent", SILENT_CONNECTIONS))
        own = [await stack.enter_async_context(channel(here, "node:silent")) for _ in range(4)]
        calls = [silent_call(own[number % 4], CALLS[number % len(CALLS)]) for number in range(SILENT_CALLS)]
        # Once the last one is refused, the agent has seen those before it on the same connection.
        assert await code_of(calls[-1]) is grpc.StatusCode.PERMISSION_DENIED
        async with here.client() as stub:
            assert (await execute(stub, command("web", "echo", "hello"))).stdout == b"hello\n"
            answers = [answer async for answer in stub.Logs(LogsRequest(environment=str(ENV), lines=-1))]
            assert [line.line for answer in answers for line in answer.lines] == [b"line"]
        assert await fetched(here, "node:another", small_image()) > 0
        # The silent one has its own share, and no more.
        ended = asyncio.as_completed([code_of(call) for call in calls])
        codes = [await next(ended) for _ in range(SILENT_CALLS - admission.NODE_CALLS)]
        assert sum(not call.done() for call in calls) == admission.NODE_CALLS
        for call in calls:
            call.cancel()
        assert {await code for code in ended} == {grpc.StatusCode.CANCELLED}
    assert grpc.StatusCode.OK not in codes
    fetches = sum(CALLS[number % len(CALLS)] == "Peers/FetchImage" for number in range(SILENT_CALLS))
    assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == fetches - admission.NODE_CALLS


@pytest.mark.parametrize("name", CALLS[:-1])
async def test_silent_call_ends(here: ApiNode, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(admission, "FIRST_MESSAGE_SECONDS", 0.1)
    caller = "operator:ann" if name.startswith("Agent/") else "node:another"
    async with channel(here, caller) as connection, channel(here, "operator:ann") as operator:
        call = silent_call(connection, name)
        assert await code_of(call) is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "no request within" in await call.details()
        assert ("devopsellence-refused-by", NODE) in list(await call.trailing_metadata())
        # The API is as good as before, on the same connection if it is the operator's.
        stub = AgentStub(connection if caller == "operator:ann" else operator)
        assert (await stub.Diagnose(DiagnoseRequest())).node == NODE


async def test_calls_are_limited_for_each_operator(here: ApiNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "FIRST_MESSAGE_SECONDS", 600.0)
    async with channel(here, "operator:ann") as ann, channel(here, "operator:bob") as bob:
        calls = [silent_call(ann, "Agent/Exec") for _ in range(admission.OPERATOR_CALLS)]
        for call in calls:
            # The acknowledgement: from here on the call counts.
            await call.initial_metadata()
        with pytest.raises(grpc.aio.AioRpcError, match=r"operator:ann has 64 calls to node n1 already") as refused:
            await AgentStub(ann).Diagnose(DiagnoseRequest())
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await AgentStub(bob).Diagnose(DiagnoseRequest())).node == NODE
        for call in calls:
            call.cancel()
        async with asyncio.timeout(20):
            while True:
                try:
                    await AgentStub(ann).Diagnose(DiagnoseRequest())
                    break
                except grpc.aio.AioRpcError as error:
                    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # noqa: PT017 - until a call has ended


async def test_call_that_ends_without_a_request_is_refused(here: ApiNode) -> None:
    async with channel(here, "operator:ann") as connection:
        for name in CALLS[:3]:
            call = silent_call(connection, name)
            await call.done_writing()
            assert await code_of(call) is grpc.StatusCode.INVALID_ARGUMENT, name


async def test_connections_without_handshake_or_call_are_closed(here: ApiNode) -> None:
    async with silent_connections(here, "node:silent", 20) as readers:
        async with asyncio.timeout(6 * server.HANDSHAKE_SECONDS):
            for reader in readers[::2]:
                assert await reader.read() == b""
            # After TLS, the agent says its settings, and hangs up as well: HTTP/2 begins with the caller's.
            for reader in readers[1::2]:
                await reader.read()


async def test_many_connections_at_once_leave_the_agent_alone(here: ApiNode) -> None:
    # gRPC crashed when a certificate was handed to it for each of several handshakes at the same time.
    for _ in range(3):
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(stack.enter_async_context(silent_connections(here, "node:silent", 50)))
    async with here.client() as stub:
        assert (await stub.Diagnose(DiagnoseRequest())).node == NODE


async def test_slow_peer_delays_only_itself(here: ApiNode) -> None:
    large = await asyncio.to_thread(lambda: build_image(24 << 20))
    here.assign(worker("web", image=large))
    async with AsyncExitStack() as stack:
        own = [await stack.enter_async_context(channel(here, "node:slow")) for _ in range(admission.NODE_CALLS)]
        stubs: list[Any] = [PeersStub(connection) for connection in own]
        slow = [stub.FetchImage(FetchImageRequest(image=large)) for stub in stubs]
        for call in slow:
            await call.initial_metadata()
        # One of them has its turn, and takes nothing more.
        reading = [asyncio.ensure_future(call.read()) for call in slow]
        await asyncio.wait(reading, return_when=asyncio.FIRST_COMPLETED)
        assert await fetched(here, "node:another", large) > 24 << 20
        assert await fetched(here, "node:one-more", large) > 24 << 20
        assert [read.done() for read in reading].count(True) == 1
        for call in slow:
            call.cancel()
        await asyncio.gather(*reading, return_exceptions=True)


async def test_peers_that_take_nothing_keep_no_slot(here: ApiNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "TAKE_SECONDS", 0.2)
    large = await asyncio.to_thread(lambda: build_image(24 << 20))
    here.assign(worker("web", image=large))
    async with AsyncExitStack() as stack:
        stubs: list[Any] = [
            PeersStub(await stack.enter_async_context(channel(here, f"node:slow-{number}"))) for number in range(SAVES)
        ]
        slow = [stub.FetchImage(FetchImageRequest(image=large)) for stub in stubs]
        first = [len((await call.read()).data) for call in slow]
        assert await fetched(here, "node:another", large) > 24 << 20
        # And they get the rest once they take it.
        for count, call in zip(first, slow, strict=True):
            while isinstance(part := await call.read(), ImagePart):
                count += len(part.data)
            assert count > 24 << 20
