"""Authentication of callers of the agent API."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, cast

import grpc
import grpc.aio
import pytest

from devopsellence.age import AgeIdentity
from devopsellence.agent_identity import server_name
from devopsellence.api.v1.agent_pb2 import DiagnoseRequest, LogsRequest
from devopsellence.api.v1.agent_pb2_grpc import AgentStub
from devopsellence.api.v1.stored_pb2 import Heartbeat
from devopsellence.cli.agent.client import AgentEndpoint, connect
from devopsellence.nodeagent.api.server import ApiServer, ListenOptions
from devopsellence.nodeagent.secrets import SecretDecrypter
from devopsellence.server_certificate import CertificateFiles, CertificateProblem, ListenProblem, certificate_expiry
from tests.integration.agentapi.api_node import ENV, NODE, ApiNode, command, execute, settings
from tests.support.authority import Authority

if TYPE_CHECKING:
    from devopsellence.nodeagent.api.images import ImageService
    from devopsellence.nodeagent.assignments import Assignments

pytestmark = pytest.mark.docker


@pytest.mark.parametrize("name", ["root", "operator:bob"])
async def test_operator_is_answered(here: ApiNode, name: str) -> None:
    async with here.client(here.authority.issue(name)) as stub:
        assert (await stub.Diagnose(DiagnoseRequest())).node == NODE


@pytest.mark.parametrize("name", ["node:n1", "node:n2", "router:n1", "controller", "operator:", "Root"])
async def test_other_certificate_of_cluster_is_refused_by_every_call(here: ApiNode, name: str) -> None:
    await here.start("web", "sleep", "1000")
    async with here.client(here.authority.issue(name)) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as first:
            await stub.Diagnose(DiagnoseRequest())
        with pytest.raises(grpc.aio.AioRpcError) as second:
            await execute(stub, command("web", "true"))
        with pytest.raises(grpc.aio.AioRpcError) as third:
            await stub.Logs(LogsRequest(environment=str(ENV))).read()
    for caught in (first, second, third):
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert name in str(caught.value.details())
        assert ("devopsellence-refused-by", NODE) in list(caught.value.trailing_metadata() or ())


async def test_replaced_machine_is_not_trusted(here: ApiNode) -> None:
    """The replaced machine answers at the address of the new machine, with a certificate that is still valid."""
    operator = settings(here.authority.issue("operator:ann"))
    async with connect(operator, AgentEndpoint(NODE, "the-new-one", here.address)) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Diagnose(DiagnoseRequest())
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    async with connect(operator, AgentEndpoint(NODE, here.uid, here.address)) as stub:
        assert (await stub.Diagnose(DiagnoseRequest())).node_uid == here.uid


async def test_certificate_of_foreign_authority_is_refused(here: ApiNode, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "stranger").issue("root")
    await _unanswered(here, CertificateFiles(here.authority.ca_cert, stranger.certificate, stranger.key))


async def test_caller_without_certificate_is_refused(here: ApiNode) -> None:
    options = [("grpc.ssl_target_name_override", server_name(here.uid))]
    credentials = grpc.ssl_channel_credentials(here.authority.ca_cert.read_bytes())
    async with grpc.aio.secure_channel(here.address, credentials, options=options) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await AgentStub(channel).Diagnose(DiagnoseRequest())
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_expired_certificate_is_refused(here: ApiNode) -> None:
    await _unanswered(here, here.authority.issue("operator:old", days_old=400))


async def test_renewed_certificate_is_served_without_restart(here: ApiNode) -> None:
    def shown() -> str:
        operator = here.authority.issue("operator:ann")
        context = ssl.create_default_context(cafile=str(operator.authority))
        context.load_cert_chain(operator.certificate, operator.key)
        context.set_alpn_protocols(["h2"])

        host, _, port = here.address.rpartition(":")
        with (
            socket.create_connection((host, int(port)), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname=server_name(here.uid)) as secure,
        ):
            return str((secure.getpeercert() or {})["serialNumber"])

    before = await asyncio.to_thread(shown)
    assert await asyncio.to_thread(shown) == before
    here.authority.issue_agent(here.uid)
    assert await asyncio.to_thread(shown) != before
    # In the middle of being replaced: the key is another one already.
    broken = here.authority.issue_agent(here.uid)
    now = await asyncio.to_thread(shown)
    broken.key.write_bytes(here.authority.issue("operator:x").key.read_bytes())
    assert await asyncio.to_thread(shown) == now


async def test_taken_port_and_missing_certificate_are_reported(here: ApiNode, tmp_path: Path) -> None:
    def listen(at: ListenOptions) -> ApiServer:
        decrypter, images = SecretDecrypter(AgeIdentity.generate()), cast("ImageService", None)
        beat = Heartbeat(node=NODE, uid=here.uid)
        assignments = cast("Assignments", here.assignments)
        return ApiServer(at, tmp_path, beat, here.engine, assignments, decrypter, images, here.access, here.audit)

    files = here.authority.issue_agent(here.uid)
    with pytest.raises(ListenProblem, match=f"cannot listen on {here.address}"):
        listen(ListenOptions(here.address, "", files))
    with pytest.raises(ListenProblem, match=r"nothing\.crt cannot be read: No such file"):
        listen(ListenOptions("127.0.0.1:0", "", CertificateFiles(files.authority, tmp_path / "nothing.crt", files.key)))


def test_certificate_expiry_is_checked_like_a_caller(tmp_path: Path) -> None:
    pki = Authority(tmp_path)
    left = certificate_expiry(pki.issue_agent("u1"), server_name("u1")) - pki.created_at.timestamp()
    assert 364 < left / 86400 < 366
    for files, why in [
        (pki.issue_agent("u2"), "Hostname mismatch"),
        (pki.issue("node:u1", server_name("u1"), days_old=400), "expired"),
        (pki.issue("node:u1"), "purpose"),
        (CertificateFiles(tmp_path / "nothing", pki.ca_cert, pki.ca_cert), "cannot be used"),
    ]:
        with pytest.raises(CertificateProblem, match=why):
            certificate_expiry(files, server_name("u1"))


async def _unanswered(here: ApiNode, files: CertificateFiles) -> None:
    async with here.client(files) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Diagnose(DiagnoseRequest())
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
