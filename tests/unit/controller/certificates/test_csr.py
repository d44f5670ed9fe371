"""Signing requests and chains, as nodes and authorities may send them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.certificates.csr import CertificateMismatch, check_request, read_chain
from tests.unit.controller.builders import START
from tests.unit.controller.certificate_builders import HOST, chain, csr, recipient, signing_request

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
