"""Signatures of approvals, and certificates that prove nothing."""

from __future__ import annotations

import datetime
import ssl
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509

from devopsellence.access.certificate import Certificate
from devopsellence.api.v1.stored_pb2 import Node, RecipientApproval
from devopsellence.certificates import approval
from devopsellence.certificates.approval import InvalidApproval, Statement
from devopsellence.certificates.authority import CertificateAuthority, CertificateRequest
from devopsellence.certificates.files import KeyPair
from devopsellence.store.settings import Settings

NOW = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)
ANN = approval.of_operator("ann", "age1ann")


@dataclass(frozen=True)
class Signer:
    """Operator with a certificate of an authority, and its files."""

    authority: CertificateAuthority
    issued: KeyPair
    folder: Path

    def sign(self, statement: Statement) -> RecipientApproval:
        self.issued.write(self.folder / "tls.crt", self.folder / "tls.key")
        cert, key = self.folder / "tls.crt", self.folder / "tls.key"
        signed = approval.sign(Settings(("127.0.0.1:1",), ca_cert=cert, cert=cert, key=key), statement)
        assert signed is not None
        return signed


def signer(folder: Path, name: str = "operator:amy") -> Signer:
    authority = CertificateAuthority.create("test", NOW)
    return Signer(authority, authority.issue(CertificateRequest(name), NOW), folder)


def test_signature_names_the_approver(tmp_path: Path) -> None:
    amy = signer(tmp_path)
    found = approval.approver(amy.sign(ANN), ANN, [amy.authority.certificate])
    serial = x509.load_pem_x509_certificate(amy.issued.certificate).serial_number
    assert found == Certificate("operator:amy", f"{serial:x}")


@pytest.mark.parametrize(
    "other",
    [
        approval.of_operator("ann", "age1other"),
        approval.of_operator("ann"),
        approval.of_operator("bob", "age1ann"),
        approval.of_operator("", "age1ann"),
        approval.of_node(Node(name="ann", uid="ann"), "age1ann"),
    ],
)
def test_signature_is_of_one_statement(tmp_path: Path, other: Statement) -> None:
    amy = signer(tmp_path)
    with pytest.raises(InvalidApproval, match="it is of something else"):
        approval.approver(amy.sign(ANN), other, [amy.authority.certificate])


def test_node_of_another_registration_is_another_statement() -> None:
    first, second = (approval.of_node(Node(name="n1", uid=uid), "age1").content for uid in ("u1", "u2"))
    assert first != second


def test_certificate_of_another_cluster_proves_nothing(tmp_path: Path) -> None:
    amy = signer(tmp_path)
    with pytest.raises(InvalidApproval, match="its certificate is of another cluster"):
        approval.approver(amy.sign(ANN), ANN, [CertificateAuthority.create("test", NOW).certificate])
    with pytest.raises(InvalidApproval, match="its certificate is of another cluster"):
        approval.approver(amy.sign(ANN), ANN, [])


def test_leaf_is_no_intermediate_authority(tmp_path: Path) -> None:
    amy = signer(tmp_path)
    signed = amy.sign(ANN)
    signed.certificates += amy.authority.issue(CertificateRequest("operator:eve"), NOW).certificate.decode()
    with pytest.raises(InvalidApproval, match="its certificates are no chain"):
        approval.approver(signed, ANN, [amy.authority.certificate])


@pytest.mark.parametrize(
    ("certificates", "problem"),
    [("", "malformed"), ("x" * 40_000, "too large"), ("-----BEGIN CERTIFICATE-----\nAAAA\n", "malformed")],
)
def test_hostile_certificates_are_refused(certificates: str, problem: str) -> None:
    with pytest.raises(InvalidApproval, match=problem):
        approval.approver(RecipientApproval(certificates=certificates), ANN, [])


def test_certificate_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    amy = signer(tmp_path)
    signed = amy.sign(ANN)
    der = ssl.PEM_cert_to_DER_cert(signed.certificates)
    curve, unknown = bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2a8648ce3d030106")
    assert der.count(curve) == 1
    signed.certificates = ssl.DER_cert_to_PEM_cert(der.replace(curve, unknown))
    with pytest.raises(InvalidApproval, match="not understood"):
        approval.approver(signed, ANN, [amy.authority.certificate])


def test_many_certificates_are_refused(tmp_path: Path) -> None:
    amy = signer(tmp_path)
    signed = amy.sign(ANN)
    signed.certificates *= 5
    with pytest.raises(InvalidApproval, match="too many certificates"):
        approval.approver(signed, ANN, [amy.authority.certificate])


def test_settings_without_a_certificate_sign_nothing() -> None:
    assert approval.sign(Settings(("127.0.0.1:1",)), ANN) is None
    node = Node(name="n1")
    approval.approve_node(Settings(("127.0.0.1:1",)), node)
    assert not node.HasField("approval")
