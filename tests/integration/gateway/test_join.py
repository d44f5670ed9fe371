"""Join tokens at gateways: one use anywhere, for one key; void ones; and nothing but that one call."""

from __future__ import annotations

import asyncio
import datetime
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor import FileDescriptor

from devopsellence.access.certificate import serial_number
from devopsellence.access.roles import Role
from devopsellence.api.v1 import audit_pb2, certificates_pb2
from devopsellence.api.v1.audit_pb2 import AuditRequest
from devopsellence.api.v1.audit_pb2_grpc import AuditStub
from devopsellence.api.v1.certificates_pb2 import JoinRequest
from devopsellence.api.v1.certificates_pb2_grpc import CertificatesStub
from devopsellence.api.v1.stored_pb2 import DeniedCertificate, IssuedCertificate, Node, UsedJoinToken
from devopsellence.certificates import subjects
from devopsellence.certificates.files import KeyPair
from devopsellence.certificates.issuing import IssuingFiles
from devopsellence.certificates.request import new_request
from devopsellence.etcd.v3 import etcd_pb2
from devopsellence.memory_file import memory_file
from devopsellence.store.codec import decode, encode
from devopsellence.store.errors import Ambiguous, PermissionDenied, Rejected, StoreError, Unavailable
from devopsellence.store.etcd import Etcd
from devopsellence.store.settings import Settings
from tests.support.authority import Authority
from tests.support.etcd import EtcdServer
from tests.support.gateway import RunningGateway, open_channel, running_gateway
from tests.support.relay import Relay
from tests.support.until import eventually

pytestmark = pytest.mark.etcd


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("joining-ca"))


@pytest.fixture(scope="module")
def issuing(authority: Authority) -> IssuingFiles:
    return authority.issue_by_intermediate()


@dataclass
class Cluster:
    """Two gateways of one cluster, and its admin."""

    gateways: Sequence[RunningGateway]
    issuing: IssuingFiles

    @property
    def first(self) -> RunningGateway:
        return self.gateways[0]

    def at(self, number: int, settings: Settings) -> Settings:
        return replace(settings, endpoints=(self.gateways[number].address,))

    def with_pair(self, pair: KeyPair) -> Settings:
        """Return settings of the first gateway with a certificate in memory."""
        cert, key = memory_file("tls.crt", pair.certificate.decode()), memory_file("tls.key", pair.key.decode())
        return replace(self.first.root(), cert=cert, key=key)

    async def token(self, uid: str = "uid-n1", by: str = "operator:amy") -> Settings:
        """Return the settings of a machine with a new join token."""
        request = new_request()
        async with Etcd(self.first.settings(by)) as etcd:
            return self.with_pair(KeyPair(await etcd.sign_certificate(request.csr, f"join:{uid}"), request.key))


@pytest.fixture
async def cluster(
    etcd_server: EtcdServer, authority: Authority, issuing: IssuingFiles, tmp_path: Path
) -> AsyncIterator[Cluster]:
    settings = etcd_server.settings(f"/test-{uuid.uuid4().hex[:12]}/")
    async with AsyncExitStack() as stack:
        gateways = []
        for number in range(2):
            running = running_gateway(settings, authority, issuing, audit=tmp_path / f"audit-{number}")
            gateways.append(await stack.enter_async_context(running))
        for gateway in gateways:
            await gateway.register("n1", "n2")
            await gateway.grant("amy", "*", roles=(Role.ADMIN,))
        yield Cluster(gateways, issuing)


async def join(settings: Settings, csr: bytes | None = None, node: str = "n1") -> bytes:
    async with Etcd(settings) as etcd:
        return await etcd.join(csr or new_request().csr, node)


async def test_machine_joins_with_its_own_key_once(cluster: Cluster) -> None:
    token, request, direct = await cluster.token(), new_request(), cluster.first.direct
    chain = await join(token, request.csr)
    async with Etcd(cluster.with_pair(KeyPair(chain, request.key))) as etcd:
        assert await etcd.get(etcd.keys.node("n1"))
        await etcd.renew_certificate(new_request().csr)
    assert token.cert is not None
    serial = serial_number(token.cert.read_bytes())
    used = await direct.get(direct.keys.used_join_token(serial))
    issued = await direct.get(direct.keys.issued_certificate(serial_number(chain)))
    assert used is not None
    assert issued is not None
    assert used.lease == issued.lease != 0
    mark = decode(UsedJoinToken, used.key, used.value)
    assert (mark.node, mark.uid, mark.chain) == ("n1", "uid-n1", chain.decode())
    record = decode(IssuedCertificate, issued.key, issued.value)
    assert (record.identity, record.node) == ("node:uid-n1", "n1")
    assert (record.issued_by, record.issued_by_serial) == ("join:uid-n1", serial)
    # The answer may have been lost: the same key gets the same certificate, another none, at any gateway.
    for number in (0, 1):
        assert await join(cluster.at(number, token), request.csr) == chain
        with pytest.raises(PermissionDenied, match="the join token was used before"):
            await join(cluster.at(number, token))
    certificates = await direct.list(direct.keys.issued_certificates_prefix)
    assert len(certificates.items) == 3


async def test_lost_answer_is_given_again(cluster: Cluster) -> None:
    token, request = await cluster.token(), new_request()
    port = int(token.endpoints[0].rpartition(":")[2])
    async with Relay(port) as relay, Etcd(replace(token, endpoints=(relay.endpoint,)), timeout=2) as etcd:
        with pytest.raises(Rejected):
            # Connects.
            await etcd.join(b"garbage", "n1")
        relay.hold_answers()
        with pytest.raises(Ambiguous):
            await etcd.join(request.csr, "n1")
        with pytest.raises(PermissionDenied, match="used before"):
            await join(token)
        relay.cut()

        async def again() -> bytes:
            with suppress(Ambiguous, Unavailable):
                return await etcd.join(request.csr, "n1")
            return b""

        chain = await eventually("the answer", again, bool)
    issued = await cluster.first.direct.list(cluster.first.direct.keys.issued_certificates_prefix)
    assert serial_number(chain) in {item.key.rpartition("/")[2] for item in issued.items}


async def test_many_uses_at_once_have_one_winner(cluster: Cluster) -> None:
    token = await cluster.token()
    asked = [join(cluster.at(number % 2, token)) for number in range(8)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert sum(isinstance(answer, bytes) for answer in answers) == 1
    refused = [answer for answer in answers if not isinstance(answer, bytes)]
    assert all(isinstance(answer, PermissionDenied) and "was used before" in str(answer) for answer in refused), refused


async def test_void_tokens_are_refused(cluster: Cluster) -> None:
    direct, keys = cluster.first.direct, cluster.first.direct.keys
    token = await cluster.token()
    with pytest.raises(PermissionDenied, match="the join token is void"):
        await join(token, node="n2")
    with pytest.raises(Rejected, match="the name of the node is malformed"):
        await join(token, node="../n1")
    for garbage in (b"garbage", b"0" * 5000):
        with pytest.raises(Rejected, match="the signing request"):
            await join(token, garbage)
    await direct.put(keys.node("n1"), encode(Node(name="n1", uid="another")))
    with pytest.raises(PermissionDenied, match="the node was removed, or registered anew for another machine"):
        await join(token)
    await direct.delete(keys.node("n1"))
    with pytest.raises(PermissionDenied, match="the join token is void"):
        await join(token)
    await direct.put(keys.node("n1"), encode(Node(name="n1", uid="uid-n1")))
    # Nothing of that has used it.
    await join(token)


@pytest.mark.parametrize("by", ["serial", "node"])
async def test_denied_token_is_refused(cluster: Cluster, by: str) -> None:
    token = await cluster.token()
    assert token.cert is not None
    serial = serial_number(token.cert.read_bytes())
    entry = DeniedCertificate(serial=serial) if by == "serial" else DeniedCertificate(name="node:uid-n1")
    await cluster.first.deny(entry)

    async def refused() -> bool:
        try:
            # No node, so the token is not used up before the gateway knows.
            await join(token, node="n2")
        except PermissionDenied as error:
            return "is denied" in str(error)
        return False

    await eventually("the gateway refuses the token", refused, every=0.02)
    async with Etcd(cluster.first.operator("amy")) as etcd:
        if by == "node":
            with pytest.raises(PermissionDenied, match="is denied"):
                await etcd.sign_certificate(new_request().csr, "join:uid-n1")


async def test_expired_token_is_refused_in_the_handshake(cluster: Cluster) -> None:
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=2)
    expired = cluster.issuing.load().issue(subjects.join_token("n1", "uid-n1"), past)
    async with open_channel(cluster.with_pair(expired)) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await CertificatesStub(channel).Join(JoinRequest(csr=new_request().csr, node="n1"))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_token_for_a_node_that_was_registered_just_now(cluster: Cluster) -> None:
    direct = cluster.first.direct
    async with Etcd(cluster.first.operator("amy")) as etcd:
        for number in range(20):
            name = f"new-{number}"
            await direct.put(direct.keys.node(name), encode(Node(name=name, uid=f"uid-{name}")))
            await etcd.sign_certificate(new_request().csr, f"join:uid-{name}")


def methods_of(*files: FileDescriptor) -> list[tuple[str, bool]]:
    """Return the path of every method of the services, and True for one that takes a stream."""
    return [
        (f"/{service.full_name}/{method.name}", method.client_streaming)
        for file in files
        for service in file.services_by_name.values()
        for method in service.methods
    ]


@pytest.mark.parametrize("identity", ["join:uid-n1", "join:gone"])
async def test_token_makes_no_other_call(cluster: Cluster, identity: str) -> None:
    methods = methods_of(etcd_pb2.DESCRIPTOR, certificates_pb2.DESCRIPTOR, audit_pb2.DESCRIPTOR)
    refused, unserved = set(), set()
    async with open_channel(cluster.first.settings(identity)) as channel:
        for path, takes_stream in methods:
            if path.endswith("/Join"):
                continue
            # An empty request, which asks for nothing that could be refused.
            call: Any = channel.stream_stream(path) if takes_stream else channel.unary_stream(path)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await anext(aiter(call(iter([b""]) if takes_stream else b"")))
            if caught.value.code() is grpc.StatusCode.UNIMPLEMENTED:
                unserved.add(path)
                continue
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED, (path, caught.value.details())
            assert "a join token joins, and nothing else" in (caught.value.details() or ""), path
            refused.add(path.rpartition("/")[2])
    served = {"Range", "Put", "DeleteRange", "Txn", "Watch", "Status", "Renew", "RenewRouter", "Sign", "Report", "Read"}
    assert refused == served | {"LeaseGrant", "LeaseRevoke", "LeaseKeepAlive", "LeaseTimeToLive"}
    assert all("Auth" in path for path in unserved), unserved


@pytest.mark.parametrize("identity", ["root", "operator:amy", "node:uid-n1", "controller", "etcd", "somebody"])
async def test_other_callers_do_not_join(cluster: Cluster, identity: str) -> None:
    with pytest.raises(PermissionDenied, match=r"only a join token joins|gives no access"):
        await join(cluster.first.settings(identity))


async def test_token_is_created_by_admins_of_all_environments_alone(cluster: Cluster) -> None:
    for gateway in cluster.gateways:
        await gateway.grant("abe", "acme/*", roles=(Role.ADMIN, Role.DEPLOYER))
    assert await cluster.token(by="root")
    for caller in ("operator:abe", "node:uid-n1", "join:uid-n1"):
        with pytest.raises(StoreError, match="permission denied"):
            await cluster.token(by=caller)


async def test_audit_tells_of_tokens_in_words(cluster: Cluster) -> None:
    token = await cluster.token()
    chain = await join(token)
    with pytest.raises(PermissionDenied):
        await join(token)
    assert token.cert is not None
    serial, signed = serial_number(token.cert.read_bytes()), serial_number(chain)

    async def read() -> list[tuple[str, str]]:
        async with open_channel(cluster.first.root()) as channel:
            answers = [answer async for answer in AuditStub(channel).Read(AuditRequest(node="n1"))]
        return [(entry.caller, entry.summary) for answer in answers for entry in answer.entries]

    # They reach the disk a moment after the call.
    shown = await eventually("entries", read, lambda found: len(found) == 3)
    assert ("operator:amy", f"create a join token for n1 with the serial number {serial}") in shown
    used = f"sign certificate {signed} for n1; use the join token with the serial number {serial}"
    assert ("join:uid-n1", used) in shown
    assert ("join:uid-n1", "join as node n1") in shown
