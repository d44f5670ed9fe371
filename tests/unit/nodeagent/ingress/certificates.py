"""Certificates for tests: made in a moment, signed by themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from devopsellence.age import seal
from devopsellence.api.v1 import stored_pb2

PrivateKey: TypeAlias = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
PEM = serialization.Encoding.PEM
UNTIL = datetime(2030, 1, 1, tzinfo=UTC)
#: Makes a key of each kind that is let through, by what the kind is called.
LET_THROUGH: Final[Mapping[str, Callable[[], PrivateKey]]] = {
    "RSA": partial(rsa.generate_private_key, 65537, 2048),
    "P-256": partial(ec.generate_private_key, ec.SECP256R1()),
    "P-384": partial(ec.generate_private_key, ec.SECP384R1()),
    "P-521": partial(ec.generate_private_key, ec.SECP521R1()),
}


def make(host: str, until: datetime = UNTIL) -> tuple[str, str, str]:
    """Serial, chain and private key (both PEM) for ``host``."""
    return signed(ec.generate_private_key(ec.SECP256R1()), host, until)


def signed(key: PrivateKey, host: str, until: datetime = UNTIL) -> tuple[str, str, str]:
    """As :func:`make`, with this key."""
    name = x509.Name([])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(until - timedelta(days=3650))
        .not_valid_after(until)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    )
    private = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return f"{certificate.serial_number:x}", certificate.public_bytes(PEM).decode(), private.decode()


def sealed(host: str, *recipients: str, until: datetime = UNTIL) -> stored_pb2.HostCertificate:
    """As the controller sends it."""
    serial, chain, key = make(host, until)
    return stored_pb2.HostCertificate(serial=serial, chain_pem=chain, key_age=seal(key.encode(), recipients))
