"""Certificates and signing requests, really signed, for tests; and the courses of hosts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.certificates.demand import AcmeAccount, CertificateDemand, IngressServer
from tests.unit.controller.builders import REF, START

HOST = "app.example.com"
ACCOUNT = AcmeAccount("https://acme.example.com/directory", "ops@example.com")
#: Made once: only who signs with which of them matters.
KEYS = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]


def recipient(number: int) -> str:
    """A public key as age writes them; nobody has the other half."""
    letters = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
    return "age1" + letters[number] * 58


def csr(*names: str, common_name: str = "", key: int = 0) -> str:
    """A signing request for ``names``, as PEM."""
    subject = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else []
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject))
    if names:
        wanted = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        builder = builder.add_extension(wanted, critical=False)
    return builder.sign(KEYS[key], hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def chain(*names: str, key: int = 0, begin: datetime = START, days: float = 90, issuer: str = "Test R3") -> str:
    """A certificate for ``names``, as PEM."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(KEYS[key].public_key())
        .serial_number(0xABC123)
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
    )
    return builder.sign(KEYS[1], hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def signing_request(
    id: str = "id-1",  # noqa: A002 - the field's name
    *,
    host: str = HOST,
    recipients: Sequence[str] = (recipient(0),),
) -> pb.SigningRequest:
    return pb.SigningRequest(id=id, csr_pem=csr(host), key_age="sealed", recipients=recipients)


def server(
    number: int,
    *,
    answers: bool = True,
    keyless: bool = False,
    tokens: Sequence[str] = (),
    requests: Sequence[pb.SigningRequest] = (),
) -> IngressServer:
    """The node n0, n1, …"""
    known = "" if keyless else recipient(number)
    return IngressServer(f"n{number}", answers, known, frozenset(tokens), {one.id: one for one in requests})


def demand(
    *servers: IngressServer, account: AcmeAccount | None = ACCOUNT, named: bool = True, host: str = HOST
) -> CertificateDemand:
    return CertificateDemand(host, servers, account if servers else None, named)


def blank(host: str = HOST) -> pb.Certificate:
    return pb.Certificate(organization=REF.organization, project=REF.project, environment=REF.environment, host=host)


def obtained(
    *recipients: str, days: float = 90, source: pb.Certificate.Source.ValueType = pb.Certificate.ACME
) -> pb.Certificate:
    """Return a certificate valid from the start of the tests on."""
    made = blank()
    made.source = source
    made.chain_pem, made.key_age, made.serial = "chain", "key", "abc"
    made.recipients.extend(recipients or [recipient(0)])
    made.not_before.FromDatetime(START)
    made.not_after.FromDatetime(START + timedelta(days=days))
    return made


def under_way(phase: str, base: pb.Certificate | None = None, *, node: str = "n0", failures: int = 0) -> pb.Certificate:
    """Return a certificate in issuance, with the key request "id-1" to n0 for recipient 0."""
    certificate = pb.Certificate()
    certificate.CopyFrom(base if base is not None else blank())
    certificate.issuance.phase = pb.Issuance.Phase.Value(phase)
    certificate.issuance.failures = failures
    if phase != "BACKOFF":
        certificate.issuance.key_node = node
        certificate.issuance.key_request.CopyFrom(pb.KeyRequest(id="id-1", host=HOST, recipients=[recipient(0)]))
    return certificate
