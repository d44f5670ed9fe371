"""Images for peers: other nodes, and only nodes, may fetch the assigned images of a node, by id."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from devopsellence.access.policy import AccessPolicy
from devopsellence.agent_identity import CHUNK_BYTES, IMAGE_BYTES, server_name
from devopsellence.api.v1 import stored_pb2, workload_pb2
from devopsellence.api.v1.agent_pb2 import DiagnoseRequest, FetchImageRequest, ImagePart
from devopsellence.api.v1.agent_pb2_grpc import AgentStub, PeersStub
from devopsellence.api.v1.stored_pb2 import DeniedCertificate, DenyList
from devopsellence.nodeagent.api.peers import MAX_WAITING
from devopsellence.nodeagent.docker.engine import SAVES
from devopsellence.nodeagent.images.archive import filter_archive
from devopsellence.nodeagent.plan.spec import resolve_assignment
from tests.integration.agentapi.api_node import ENV, NODE, ApiNode
from tests.support.docker import docker
from tests.support.images import build_image, small_image

pytestmark = pytest.mark.docker
OTHER = "sha256:" + "0" * 64


def service(image: str) -> workload_pb2.Service:
    return workload_pb2.Service(name="web", image=workload_pb2.Image(pinned=image))


@asynccontextmanager
async def channel(here: ApiNode, name: str = "") -> AsyncIterator[grpc.aio.Channel]:
    """Open a channel with a certificate of this common name; empty: without a certificate."""
    files = here.authority.issue(name) if name else None
    own = (files.key.read_bytes(), files.certificate.read_bytes()) if files is not None else (None, None)
    credentials = grpc.ssl_channel_credentials(here.authority.ca_cert.read_bytes(), *own)
    options = [
        ("grpc.ssl_target_name_override", server_name(here.uid)),
        ("grpc.max_receive_message_length", 8 << 20),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    async with grpc.aio.secure_channel(here.address, credentials, options=options) as connection:
        yield connection


async def refused(here: ApiNode, name: str, image: str) -> grpc.aio.AioRpcError:
    async with channel(here, name) as connection:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(connection, image, timeout=5).read()
    return caught.value


def call(connection: grpc.aio.Channel, image: str, timeout: float | None = None) -> Any:
    return PeersStub(connection).FetchImage(FetchImageRequest(image=image), timeout=timeout)


async def test_node_gets_assigned_image(here: ApiNode) -> None:
    here.assign(service(small_image()))
    async with channel(here, "node:another") as connection:
        answer = call(connection, small_image())
        metadata = dict(await answer.initial_metadata())
        sizes, archive = [], b""
        async for part in answer:
            sizes.append(len(part.data))
            archive += part.data
    assert max(sizes) <= CHUNK_BYTES
    assert int(metadata[IMAGE_BYTES]) == int(docker("image", "inspect", "-f", "{{.Size}}", small_image()))
    assert 0 < int(metadata[IMAGE_BYTES]) <= len(archive)
    assert list(filter_archive(small_image(), [archive])), "it is what the asking end takes"


@pytest.mark.parametrize("name", ["operator:ann", "root", "controller", "node:", "Node:n1", "router:n1"])
async def test_images_are_refused_to_other_callers(here: ApiNode, name: str) -> None:
    here.assign(service(small_image()))
    error = await refused(here, name, small_image())
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert f"only nodes may pull images from an agent; this is the certificate of {name}" in str(error.details())
    assert ("devopsellence-refused-by", NODE) in list(error.trailing_metadata() or ())


async def test_peer_without_certificate_gets_no_answer(here: ApiNode) -> None:
    here.assign(service(small_image()))
    assert (await refused(here, "", small_image())).code() is grpc.StatusCode.UNAVAILABLE


async def test_node_gets_nothing_but_assigned_images(here: ApiNode) -> None:
    """Images that are not assigned, and all other calls, are refused."""
    unassigned = await asyncio.to_thread(lambda: build_image(b"not assigned"))
    here.assign(service(small_image()))
    for image, code, why in [
        (unassigned, grpc.StatusCode.NOT_FOUND, f"node {NODE} is not assigned image {unassigned}"),
        (OTHER, grpc.StatusCode.NOT_FOUND, "is not assigned"),
        ("devopsellence/test:small", grpc.StatusCode.INVALID_ARGUMENT, "must be given by its id"),
        ("../../etc", grpc.StatusCode.INVALID_ARGUMENT, "must be given by its id"),
        ("", grpc.StatusCode.INVALID_ARGUMENT, "must be given by its id"),
    ]:
        error = await refused(here, "node:another", image)
        assert (error.code(), why in str(error.details())) == (code, True), error
    async with channel(here, "node:another") as connection:
        with pytest.raises(grpc.aio.AioRpcError, match="operator"):
            await AgentStub(connection).Diagnose(DiagnoseRequest())
    docker("rmi", "-f", unassigned)


async def test_image_of_removed_environment_is_refused(here: ApiNode) -> None:
    here.assign(service(small_image()))
    tombstone = stored_pb2.Assignment(node=NODE, node_uid=here.uid, generation=2, removed=True)
    here.assignments.desired[ENV] = resolve_assignment(tombstone, ENV, here.uid)
    assert (await refused(here, "node:another", small_image())).code() is grpc.StatusCode.NOT_FOUND


async def test_assigned_but_missing_image_is_reported(here: ApiNode) -> None:
    here.assign(service(OTHER))
    error = await refused(here, "node:another", OTHER)
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert f"does not have image {OTHER}" in str(error.details())


async def test_concurrent_transfers_are_limited_and_leaving_callers_free_slots(here: ApiNode) -> None:
    """A caller that does not read delays only itself."""
    large = await asyncio.to_thread(lambda: build_image(24 << 20))
    here.assign(service(large))
    async with AsyncExitStack() as stack:
        callers = [f"node:{number}" for number in range(SAVES + MAX_WAITING)]
        channels = [await stack.enter_async_context(channel(here, caller)) for caller in callers]
        sending = [call(connection, large) for connection in channels[:SAVES]]
        for transfer in sending:
            assert isinstance(await transfer.read(), ImagePart)
        waiting = [call(connection, large) for connection in channels[SAVES:]]
        for transfer in waiting:
            assert IMAGE_BYTES in dict(await transfer.initial_metadata())
        while (error := await refused(here, "node:one-more", large)).code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            pass  # one of those that are to wait has not arrived yet
        assert "too many peers" in str(error.details())
        assert not any(transfer.done() for transfer in waiting)
        reading = {asyncio.ensure_future(transfer.read()): transfer for transfer in waiting}
        sending[0].cancel()
        (first,), others = await asyncio.wait(reading, return_when=asyncio.FIRST_COMPLETED)
        count = len((await first).data)
        while isinstance(part := await reading[first].read(), ImagePart):
            count += len(part.data)
        assert count > 24 << 20
        # Then the next one's turn has come.
        await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED)
        for transfer in [*sending, *waiting]:
            transfer.cancel()
    docker("rmi", "-f", large)


@pytest.fixture
def closing_all() -> Iterator[None]:
    """Fail the test, and no later one, if it leaves connections to the engine open: the interpreter warns of them."""
    yield
    gc.collect()


@pytest.mark.usefixtures("closing_all")
async def test_transfer_to_a_denied_node_breaks_off(here: ApiNode) -> None:
    image = await asyncio.to_thread(lambda: build_image(bytes(32 << 20)))
    here.assign(service(image))

    async def take(transfer: Any) -> None:
        while await transfer.read() is not grpc.aio.EOF:
            pass

    async with asyncio.timeout(30), channel(here, "node:another") as connection:
        # The first takes nothing after the beginning, the second waits for its turn behind the first.
        transfers = [call(connection, image)]
        assert await transfers[0].read() is not grpc.aio.EOF
        transfers.append(call(connection, image))
        here.permit(AccessPolicy(denied=DenyList(certificates=[DeniedCertificate(name="node:third")])))
        assert not transfers[0].done()
        here.permit(AccessPolicy(denied=DenyList(certificates=[DeniedCertificate(name="node:another")])))
        for transfer in transfers:
            with pytest.raises(grpc.aio.AioRpcError, match="the certificate of node:another is denied"):
                await take(transfer)
    docker("rmi", "-f", image)
