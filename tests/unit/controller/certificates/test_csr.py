"""Signing requests and chains, as nodes and authorities may send them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.certificates.csr import CertificateMismatch, check_request, read_chain
from tests.unit.controller.builders import START
from tests.unit.controller.certificate_builders import HOST, KEYS, chain, csr, recipient, signing_request

OTHER = "other.example.com"


@pytest.mark.parametrize(
    ("pem", "why"),
    [
        (csr(HOST, OTHER), f"it is for {HOST}, {OTHER}"),
        (csr(f"*.{HOST}"), "it is for "),
        (csr(), "it is for no host"),
        (csr(HOST, common_name=OTHER), f"it is for {HOST}, {OTHER}"),
        (csr(OTHER, common_name=HOST), f"it is for {OTHER}, {HOST}"),
        ("", "cannot be read"),
        (chain(HOST), "cannot be read"),
    ],
    ids=["one more host", "a wildcard", "no host", "another common name", "the host as name only", "empty", "no csr"],
)
def test_signing_request_is_for_this_host_alone(pem: str, why: str) -> None:
    request = pb.SigningRequest(id="id-1", csr_pem=pem, key_age="sealed", recipients=[recipient(0)])
    with pytest.raises(CertificateMismatch, match=why.replace("*", r"\*")):
        check_request(request, HOST, [recipient(0)])


def test_signing_request_as_asked_for() -> None:
    check_request(signing_request(), HOST, [recipient(0)])
    named = pb.SigningRequest(id="x", csr_pem=csr(HOST, common_name=HOST), key_age="k", recipients=[recipient(0)])
    check_request(named, HOST, [recipient(0)])


def test_request_that_asks_for_more_than_a_host_is_refused() -> None:
    names = x509.SubjectAlternativeName([x509.DNSName(HOST)])
    builder = x509.CertificateSigningRequestBuilder().add_extension(names, critical=False)
    authority = builder.subject_name(x509.Name([]))
    authority = authority.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    named = builder.subject_name(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Somebody else")]))
    for asked in (authority, named):
        pem = asked.sign(KEYS[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
        refuse(signing_request(), "asks for more than a host", csr_pem=pem)


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("csr_pem", csr(HOST) + csr(OTHER), "more than one signing request"),
        ("csr_pem", "x" * 1_000_000, "it has 1000000 characters"),
        ("key_age", "x" * 1_000_000, "its encrypted key has 1000000 characters"),
    ],
    ids=["another request behind it", "a large request", "a large key"],
)
def test_hostile_request_is_refused(field: str, value: str, why: str) -> None:
    refuse(signing_request(), why, **{field: value})


def test_names_of_a_hostile_request_are_quoted_with_care() -> None:
    pem = csr(*(f"h{number}.example.com" for number in range(100)), common_name="\x1b[2Jhello")
    with pytest.raises(CertificateMismatch) as refused:
        check_request(pb.SigningRequest(csr_pem=pem), HOST, [])
    assert str(refused.value) == "it is for h0.example.com, h1.example.com, h2.example.com, 98 more"
    with pytest.raises(CertificateMismatch) as refused:
        check_request(pb.SigningRequest(csr_pem=csr(HOST, common_name="\x1b[2Jhello")), HOST, [])
    assert str(refused.value) == f"it is for {HOST}, \\x1b[2Jhello"


def refuse(request: pb.SigningRequest, why: str, **fields: str) -> None:
    """``request`` with these ``fields`` is refused because of ``why``."""
    for field, value in fields.items():
        setattr(request, field, value)
    with pytest.raises(CertificateMismatch, match=why):
        check_request(request, HOST, request.recipients)


def test_request_that_another_key_has_signed_is_refused() -> None:
    """Its signature belongs to other bytes."""
    import base64

    lines = csr(HOST).strip().splitlines()
    raw = bytearray(base64.b64decode("".join(lines[1:-1])))
    at = raw.find(HOST.encode())
    raw[at : at + 3] = b"bad"
    body = base64.b64encode(bytes(raw)).decode()
    pem = f"{lines[0]}\n{body}\n{lines[-1]}\n"
    request = pb.SigningRequest(id="id-1", csr_pem=pem, key_age="sealed", recipients=[recipient(0)])
    with pytest.raises(CertificateMismatch, match="its signature is not by its own key"):
        check_request(request, "bad.example.com", [recipient(0)])


def test_chain_says_what_people_ask_about_it() -> None:
    pem = chain(HOST) + chain("an authority")
    found = read_chain(pem, csr(HOST), HOST, START)
    assert (found.pem, found.serial, found.issuer) == (pem, "abc123", "Test R3")
    assert (found.not_before, found.not_after) == (START, START + timedelta(days=90))


@pytest.mark.parametrize(
    ("pem", "why"),
    [
        (chain(HOST, key=1), "it is for another key"),
        (chain(OTHER), f"it is for {OTHER}"),
        (chain(HOST, begin=START - timedelta(days=90)), "it has expired"),
        ("", "cannot be read"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "cannot be read"),
    ],
    ids=["another key", "another host", "expired", "empty", "nonsense"],
)
def test_chain_that_cannot_be_served_is_refused(pem: str, why: str) -> None:
    with pytest.raises(CertificateMismatch, match=why):
        read_chain(pem, csr(HOST), HOST, START)
