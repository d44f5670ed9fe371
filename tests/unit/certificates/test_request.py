"""Signing requests: what is made, and what is accepted."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from devopsellence.certificates.request import MAX_BYTES, InvalidRequest, key_in, new_request

pytestmark = pytest.mark.hypothesis
DER = serialization.Encoding.DER
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


def csr(key: Key) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()).public_bytes(DER)


def test_request_has_a_new_key_and_no_subject() -> None:
    first, second = new_request(), new_request()
    key = serialization.load_pem_private_key(first.key, password=None)
    assert key_in(first.csr) == key.public_key()
    assert key_in(first.csr) != key_in(second.csr)
    assert not list(x509.load_der_x509_csr(first.csr).subject)
    assert "PRIVATE" not in repr(first)


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP256K1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=lambda key: type(key).__name__,
)
def test_key_of_another_kind_is_refused(key: Key) -> None:
    with pytest.raises(InvalidRequest, match="is not EC P-256"):
        key_in(csr(key))


def test_request_of_somebody_without_the_key_is_refused() -> None:
    mine, other = new_request().csr, new_request().csr
    der = serialization.PublicFormat.SubjectPublicKeyInfo
    stolen = mine.replace(key_in(mine).public_bytes(DER, der), key_in(other).public_bytes(DER, der))
    with pytest.raises(InvalidRequest, match="not signed with its own key"):
        key_in(stolen)


@pytest.mark.parametrize("content", [b"", b"\x30", b"nonsense", new_request().key, new_request().csr[:-1]])
def test_malformed_request_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidRequest, match="is malformed"):
        key_in(content)


def test_large_request_is_refused_unread() -> None:
    with pytest.raises(InvalidRequest, match="4096 are the most"):
        key_in(b"\0" * (MAX_BYTES + 1))


@given(st.binary(max_size=600), st.integers(0, 200), st.integers(0, 255))
def test_no_bytes_break_the_check(garbage: bytes, place: int, byte: int) -> None:
    request = bytearray(new_request().csr)
    request[place % len(request)] = byte
    for content in (garbage, bytes(request), bytes(request) + garbage):
        try:
            key_in(content)
        except InvalidRequest:
            continue
