"""Certificates signed at the gateway: every caller by every method, hostile requests, records, a renewal in use."""

from __future__ import annotations

import asyncio
import datetime
import shutil
import uuid
from collections.abc import AsyncIterator, Awaitable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from devopsellence.access.roles import Role
from devopsellence.agent_identity import server_name
from devopsellence.api.v1.certificates_pb2 import RenewRequest, SignedCertificate, SignRequest
from devopsellence.api.v1.certificates_pb2_grpc import CertificatesStub
from devopsellence.api.v1.stored_pb2 import DeniedCertificate, IssuedCertificate, Node
from devopsellence.certificates.authority import CertificateAuthority
from devopsellence.certificates.issuing import IssuingFiles
from devopsellence.certificates.life import LEAF_LIFE
from devopsellence.certificates.request import new_request
from devopsellence.server_certificate import CertificateFiles
from devopsellence.store.codec import decode, encode
from devopsellence.store.errors import PermissionDenied, Rejected, Unavailable
from devopsellence.store.etcd import Etcd
from devopsellence.store.settings import Settings
from tests.support.authority import Authority, settings_with
from tests.support.etcd import EtcdServer
from tests.support.gateway import RunningGateway, open_channel, running_gateway
from tests.support.until import eventually

if TYPE_CHECKING:
    from devopsellence.api.v1.certificates_pb2_grpc import CertificatesAsyncStub

pytestmark = pytest.mark.etcd
ENVIRONMENT = "acme/shop/production"
REFUSED = "refused"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("signing-ca"))


@pytest.fixture(scope="module")
def issuing(authority: Authority) -> IssuingFiles:
    return authority.issue_by_intermediate()


@pytest.fixture
async def gateway(
    etcd_server: EtcdServer, authority: Authority, issuing: IssuingFiles
) -> AsyncIterator[RunningGateway]:
    settings = etcd_server.settings(f"/test-{uuid.uuid4().hex[:12]}/")
    async with running_gateway(settings, authority, issuing) as running:
        await running.register("n1", "n2")
        await running.grant("ann", ENVIRONMENT, roles=(Role.DEPLOYER,))
        await running.grant("vic", ENVIRONMENT, roles=(Role.VIEWER,))
        await running.grant("amy", "*", roles=(Role.ADMIN,))
        yield running


@asynccontextmanager
async def stub_of(settings: Settings) -> AsyncIterator[CertificatesAsyncStub]:
    async with open_channel(settings) as channel:
        yield CertificatesStub(channel)


async def code_of(call: Awaitable[SignedCertificate]) -> grpc.StatusCode | None:
    """Return the status code of a call that was refused; None if it was answered."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return None


async def answer_to(call: Awaitable[SignedCertificate]) -> str:
    """Return the identity in a certificate that was signed, or :data:`REFUSED`."""
    try:
        chain = (await call).chain
    except grpc.aio.AioRpcError as error:
        return REFUSED if error.code() is grpc.StatusCode.PERMISSION_DENIED else str(error)
    return str(leaf(chain).subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def leaf(chain: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(chain)


@pytest.mark.parametrize(
    ("caller", "names", "unit"),
    [
        ("node:uid-n1", [server_name("uid-n1")], "n1"),
        ("operator:ann", [], ""),
        ("root", ["etcd-client.devopsellence.internal"], ""),
    ],
)
async def test_caller_renews_its_own_certificate(
    gateway: RunningGateway, issuing: IssuingFiles, caller: str, names: list[str], unit: str
) -> None:
    request = new_request()
    async with Etcd(gateway.settings(caller)) as etcd:
        chain = await etcd.renew_certificate(request.csr)
    signed, behind = x509.load_pem_x509_certificates(chain)
    signed.verify_directly_issued_by(behind)
    assert behind == issuing.load().certificate
    assert signed.subject.rfc4514_string() == (f"CN={caller},OU={unit}" if unit else f"CN={caller}")
    assert signed.public_key() == x509.load_der_x509_csr(request.csr).public_key()
    if caller == "root":
        # Its copies on etcd's machines are renewed by hand.
        assert signed.not_valid_after_utc == behind.not_valid_after_utc
    else:
        assert signed.not_valid_after_utc - signed.not_valid_before_utc == LEAF_LIFE + datetime.timedelta(hours=1)
    extensions = signed.extensions
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    if names:
        found = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert found.get_values_for_type(x509.DNSName) == names


async def test_renewal_is_recorded_with_who_asked(gateway: RunningGateway) -> None:
    settings = gateway.node("n1")
    assert settings.cert is not None
    async with Etcd(settings) as etcd:
        chain = await etcd.renew_certificate(new_request().csr)
    ((key, record),) = [
        (item.key, decode(IssuedCertificate, item.key, item.value))
        for item in (await gateway.direct.list(gateway.direct.keys.issued_certificates_prefix)).items
    ]
    assert key.endswith(f"/{leaf(chain).serial_number:x}")
    assert (record.identity, record.issued_by, record.node) == ("node:uid-n1", "node:uid-n1", "n1")
    assert record.issued_by_serial == f"{leaf(settings.cert.read_bytes()).serial_number:x}"
    assert record.not_after.ToDatetime(datetime.UTC) == leaf(chain).not_valid_after_utc
    stored = await gateway.direct.get(key)
    assert stored is not None
    assert stored.lease
    # A node cannot write or delete the record, nor read it; an admin reads it.
    async with Etcd(settings) as etcd:
        with pytest.raises(PermissionDenied):
            await etcd.delete(key)
        with pytest.raises(PermissionDenied):
            await etcd.get(key)
    async with Etcd(gateway.operator("amy")) as etcd:
        assert await etcd.get(key) is not None
        with pytest.raises(PermissionDenied):
            await etcd.put(key, encode(record))


MACHINES = ("node:uid-n1", "node:uid-n2", "join:uid-n1")
#: Caller, and whose certificates it may have signed by Renew and by Sign.
SIGNED = {
    "root": ({"root"}, {"operator:ann", "operator:vic", "operator:amy", *MACHINES}),
    "operator:amy": ({"operator:amy"}, {"operator:vic", "operator:amy", *MACHINES}),
    "operator:ann": ({"operator:ann"}, set()),
    "operator:vic": ({"operator:vic"}, set()),
    "operator:nobody": (set(), set()),
    "node:uid-n1": ({"node:uid-n1"}, set()),
    "node:uid-gone": (set(), set()),
    "join:uid-n1": (set(), set()),
    "router:uid-n1": (set(), set()),
    "controller": (set(), set()),
    "etcd": (set(), set()),
    "somebody": (set(), set()),
}
IDENTITIES = (
    *("root", "controller", "etcd", "operator:ann", "operator:vic", "operator:amy", "operator:nobody"),
    *("node:uid-n1", "node:uid-n2", "node:uid-gone", "router:uid-n1", "operator:", "node:"),
    *("join:uid-n1", "join:uid-gone"),
)


@pytest.mark.parametrize("caller", SIGNED)
async def test_matrix_of_callers_and_identities(gateway: RunningGateway, caller: str) -> None:
    async with stub_of(gateway.settings(caller)) as stub:
        answers = {"": await answer_to(stub.Renew(RenewRequest(csr=new_request().csr)))}
        for identity in IDENTITIES:
            answers[identity] = await answer_to(stub.Sign(SignRequest(csr=new_request().csr, identity=identity)))
    renewed = {answers.pop("")} - {REFUSED}
    signed = {name for name, answer in answers.items() if answer != REFUSED}
    assert all(answers[name] == name for name in signed)
    assert (renewed, signed) == SIGNED[caller]
    records = await gateway.direct.list(gateway.direct.keys.issued_certificates_prefix)
    assert len(records.items) == len(renewed) + len(signed)


@pytest.mark.parametrize("caller", SIGNED)
async def test_router_certificates_are_signed_for_their_nodes_alone(gateway: RunningGateway, caller: str) -> None:
    async with stub_of(gateway.settings(caller)) as stub:
        answer = await answer_to(stub.RenewRouter(RenewRequest(csr=new_request().csr)))
    assert answer == ("router:uid-n1" if caller == "node:uid-n1" else REFUSED)


async def test_denied_and_replaced_callers_renew_nothing(gateway: RunningGateway) -> None:
    by_serial, replaced = gateway.node("n1"), gateway.node("n2")
    assert by_serial.cert is not None
    serial = f"{leaf(by_serial.cert.read_bytes()).serial_number:x}"
    await gateway.deny(DeniedCertificate(name="operator:ann"), DeniedCertificate(serial=serial))
    keys = gateway.direct.keys
    await gateway.direct.put(keys.node("n2"), encode(Node(name="n2", uid="another")))
    for settings in (by_serial, replaced, gateway.operator("ann")):
        async with stub_of(settings) as stub:

            async def refused(stub: CertificatesAsyncStub = stub) -> bool:
                code = await code_of(stub.Renew(RenewRequest(csr=new_request().csr)))
                return code is grpc.StatusCode.PERMISSION_DENIED

            await eventually("the gateway refuses the caller", refused, every=0.05)
    async with Etcd(gateway.operator("amy")) as etcd:
        with pytest.raises(PermissionDenied, match="is denied"):
            await etcd.sign_certificate(new_request().csr, "operator:ann")


async def test_garbage_is_refused_and_bounded(gateway: RunningGateway) -> None:
    async with Etcd(gateway.operator("ann")) as etcd:
        for csr in (b"", b"garbage", b"0" * 5000, new_request().key, new_request().csr[:-3]):
            with pytest.raises(Rejected, match="the signing request"):
                await etcd.renew_certificate(csr)
    async with stub_of(gateway.node("n1")) as stub:
        codes = [await code_of(stub.Renew(RenewRequest(csr=new_request().csr))) for _ in range(8)]
    assert codes == [None] * 6 + [grpc.StatusCode.RESOURCE_EXHAUSTED] * 2


async def test_signed_life_is_as_asked(gateway: RunningGateway) -> None:
    async with Etcd(gateway.root()) as etcd:
        chain = await etcd.sign_certificate(new_request().csr, "operator:vic", datetime.timedelta(hours=2))
        life = leaf(chain).not_valid_after_utc - leaf(chain).not_valid_before_utc
        assert life == datetime.timedelta(hours=3)
        with pytest.raises(Rejected, match="5 minutes to 90 days"):
            await etcd.sign_certificate(new_request().csr, "operator:vic", datetime.timedelta(days=91))


async def test_certificate_for_a_fixed_term_cannot_be_extended(gateway: RunningGateway, tmp_path: Path) -> None:
    request = new_request()
    async with Etcd(gateway.root()) as etcd:
        chain = await etcd.sign_certificate(request.csr, "operator:amy", datetime.timedelta(hours=2))
    files = CertificateFiles(gateway.authority.ca_cert, tmp_path / "tls.crt", tmp_path / "tls.key")
    files.certificate.write_bytes(chain)
    files.key.write_bytes(request.key)
    async with Etcd(settings_with(gateway.root(), files)) as etcd:
        assert await etcd.get(etcd.keys.operator_access("amy"))
        with pytest.raises(PermissionDenied, match="fixed term"):
            await etcd.renew_certificate(new_request().csr)
        for identity in ("operator:amy", "operator:vic", "node:uid-n1"):
            with pytest.raises(PermissionDenied, match="fixed term"):
                await etcd.sign_certificate(new_request().csr, identity)


async def test_gateway_without_an_authority_signs_nothing(etcd_server: EtcdServer, authority: Authority) -> None:
    settings = etcd_server.settings(f"/test-{uuid.uuid4().hex[:12]}/")
    async with running_gateway(settings, authority) as running:
        await running.register("n1")
        async with Etcd(running.node("n1")) as etcd:
            with pytest.raises(Unavailable):
                await etcd.renew_certificate(new_request().csr)
    async with Etcd(settings) as etcd:
        with pytest.raises(Unavailable):
            await etcd.renew_certificate(new_request().csr)


async def test_expired_authority_signs_nothing(etcd_server: EtcdServer, authority: Authority, tmp_path: Path) -> None:
    old = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=400)
    root = CertificateAuthority.create("old", old)
    files = IssuingFiles(tmp_path / "issuing.crt", tmp_path / "issuing.key", tmp_path / "ca.crt")
    files.trusted.write_bytes(root.trusted)
    root.create_issuing("old", old).issued.write(files.certificate, files.key)
    settings = etcd_server.settings(f"/test-{uuid.uuid4().hex[:12]}/")
    async with running_gateway(settings, authority, files) as running, Etcd(running.root()) as etcd:
        with pytest.raises(Unavailable, match="the authority of this gateway cannot sign"):
            await etcd.renew_certificate(new_request().csr)


async def test_renewal_during_a_watch_loses_no_event(gateway: RunningGateway, tmp_path: Path) -> None:
    before = gateway.node("n1")
    files = CertificateFiles(gateway.authority.ca_cert, tmp_path / "tls.crt", tmp_path / "tls.key")
    for source, target in ((before.cert, files.certificate), (before.key, files.key)):
        assert source is not None
        shutil.copyfile(source, target)
    key = gateway.direct.keys.node("n1")
    async with asyncio.timeout(30), Etcd(settings_with(before, files)) as etcd:
        start = await gateway.direct.put(key, encode(Node(name="n1", uid="uid-n1")))
        async with aclosing(etcd.watch(key, start_revision=start + 1)) as batches:
            await anext(batches)
            for number in range(5):
                request = new_request()
                chain = await etcd.renew_certificate(request.csr)
                files.key.write_bytes(request.key)
                files.certificate.write_bytes(chain)
                node = Node(name="n1", uid="uid-n1", labels=[str(number)])
                await gateway.direct.put(key, encode(node))
                (event,) = (await anext(batches)).events
                assert event.kv is not None
                assert event.kv.value == encode(node)
