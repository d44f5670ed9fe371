"""Self-signed certificates of hosts, for tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from devopsellence.age import encrypt
from devopsellence.api.v1 import stored_pb2
from devopsellence.nodeagent.envoy.model import TlsCertificate

PrivateKey: TypeAlias = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
PEM = serialization.Encoding.PEM
EXPIRY = datetime(2030, 1, 1, tzinfo=UTC)
#: Factories of the kinds of key that Envoy accepts, by name of the kind.
ACCEPTED_KEYS: Final[Mapping[str, Callable[[], PrivateKey]]] = {
    "RSA": partial(rsa.generate_private_key, 65537, 2048),
    "P-256": partial(ec.generate_private_key, ec.SECP256R1()),
    "P-384": partial(ec.generate_private_key, ec.SECP384R1()),
    "P-521": partial(ec.generate_private_key, ec.SECP521R1()),
}


def make_certificate(host: str, until: datetime = EXPIRY) -> tuple[str, str, str]:
    """Return serial, chain and private key (PEM) of a new certificate for ``host``."""
    return signed(ec.generate_private_key(ec.SECP256R1()), host, until)


def signed(key: PrivateKey, host: str, until: datetime = EXPIRY) -> tuple[str, str, str]:
    """Return serial, chain and private key (PEM) of a new certificate with ``key``."""
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


def encrypted_certificate(host: str, *recipients: str, until: datetime = EXPIRY) -> stored_pb2.HostCertificate:
    """Return a new certificate as the controller sends it, the key encrypted for ``recipients``."""
    serial, chain, key = make_certificate(host, until)
    return stored_pb2.HostCertificate(serial=serial, chain_pem=chain, key_age=encrypt(key.encode(), recipients))


def tls_certificate(serial: str = "ab", host: str = "a.example") -> TlsCertificate:
    """A certificate for the router's tests; ``serial`` need not be the real serial number."""
    _, chain, key = make_certificate(host)
    return TlsCertificate(serial, chain, key)
