"""A small certificate authority (CA): EC P-256 keys, PEM files, private keys readable only by their owner.

The common name of a client certificate is the identity at gateways and agents. Used for local and real clusters.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from devopsellence import input_file
from devopsellence.cli.util.files import write_atomic

AUTHORITY_LIFE: Final = datetime.timedelta(days=3650)
LEAF_LIFE: Final = datetime.timedelta(days=365)
RENEW_WHEN_LEFT: Final = datetime.timedelta(days=30)
# Clocks of machines differ a little; a certificate must be valid on a machine with a slow clock.
BACKDATE: Final = datetime.timedelta(hours=1)
MAX_COMMON_NAME: Final = 64  # RFC 5280, appendix A.1: ub-common-name


class CertificateError(Exception):
    """A certificate or key cannot be created, read or used; the message has the file and the reason."""


@dataclass(frozen=True)
class IssuedCertificate:
    """Certificate and private key, both PEM."""

    certificate: bytes
    key: bytes

    def write(self, certificate: Path, key: Path) -> None:
        """Replace both files atomically: first the key (mode 0600), then the certificate."""
        write_atomic(key, self.key, mode=0o600)
        write_atomic(certificate, self.certificate, mode=0o644)


@dataclass(frozen=True)
class CertificateRequest:
    """Content of a leaf certificate.

    ``common_name`` is the identity. ``server_names`` are the DNS names and IP addresses of a server; empty in a client
    certificate. Server certificates are client certificates as well, because etcd members connect to each other.
    ``client_names`` are further DNS names, by which a server chooses its clients. ``unit`` is for people and gives no
    access.
    """

    common_name: str
    server_names: tuple[str, ...] = ()
    client_names: tuple[str, ...] = ()
    unit: str = ""

    def alternative_names(self) -> list[x509.GeneralName]:
        return [_general_name(name) for name in (*self.server_names, *self.client_names)]


class CertificateAuthority:
    """CA for leaf certificates, self-signed, without intermediate CAs."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate = certificate
        self._key = key

    @classmethod
    def create(cls, name: str, now: datetime.datetime) -> CertificateAuthority:
        """Create a CA called ``name``, valid for ten years from ``now`` (aware)."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _subject(name)
        usage = _key_usage(sign_certificates=True)
        builder = _builder(subject, subject, key.public_key(), now, AUTHORITY_LIFE, authority_key=key.public_key())
        certificate = (
            builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @classmethod
    def load(cls, certificate: Path, key: Path) -> CertificateAuthority:
        """Load a CA from two PEM files.

        Raises:
            CertificateError: a file is missing or unreadable, or the key does not match.
        """
        loaded, private = load_certificate(certificate), load_key(key)
        if private.public_key() != loaded.public_key():
            raise CertificateError(f"{key} is not the key of the certificate {certificate}")
        return cls(loaded, private)

    @property
    def issued(self) -> IssuedCertificate:
        """Certificate and key of the CA as PEM."""
        return IssuedCertificate(
            self._certificate.public_bytes(serialization.Encoding.PEM),
            _private_pem(self._key),
        )

    @property
    def certificate(self) -> x509.Certificate:
        return self._certificate

    def issue(
        self,
        request: CertificateRequest,
        now: datetime.datetime,
        *,
        key: ec.EllipticCurvePrivateKey | None = None,
        life: datetime.timedelta = LEAF_LIFE,
    ) -> IssuedCertificate:
        """Issue a leaf certificate, valid for ``life`` from ``now`` but never longer than the CA.

        ``key`` is the key of the certificate; a new key by default.

        Raises:
            CertificateError: the common name is empty or longer than 64 characters.
        """
        key = key or ec.generate_private_key(ec.SECP256R1())
        life = min(life, self._certificate.not_valid_after_utc - now)
        builder = _builder(
            _subject(request.common_name, request.unit),
            self._certificate.subject,
            key.public_key(),
            now,
            life,
            authority_key=self._key.public_key(),
        )
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if request.server_names:
            purposes.append(ExtendedKeyUsageOID.SERVER_AUTH)
        if names := request.alternative_names():
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(sign_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return IssuedCertificate(certificate.public_bytes(serialization.Encoding.PEM), _private_pem(key))

    def why_renew(self, certificate: x509.Certificate, request: CertificateRequest, now: datetime.datetime) -> str:
        """Return the reason to renew ``certificate`` for ``request``; "" for none."""
        if common_name(certificate) != request.common_name:
            return f"issued for {common_name(certificate)!r}, not {request.common_name!r}"
        if set(_alternative_names(certificate)) != set(request.alternative_names()):
            return "issued for other names"
        try:
            certificate.verify_directly_issued_by(self._certificate)
        except (ValueError, TypeError, InvalidSignature):
            return "not signed by this CA"
        return why_expires(certificate, now)


def load_certificate(path: Path) -> x509.Certificate:
    """Load the first certificate in a PEM file.

    Raises:
        CertificateError: the file is missing, unreadable or not a certificate.
    """
    try:
        return x509.load_pem_x509_certificate(input_file.read(path))
    except (OSError, ValueError) as error:
        raise CertificateError(f"cannot read the certificate {path}: {error}") from error


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Load the private key in a PEM file.

    Raises:
        CertificateError: the file is missing or unreadable, or holds another kind of key.
    """
    try:
        key = serialization.load_pem_private_key(input_file.read(path), password=None)
    except (OSError, ValueError, TypeError) as error:  # TypeError: it is encrypted
        raise CertificateError(f"cannot read the key {path}: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CertificateError(f"{path} is not an elliptic curve key")
    return key


def why_expires(certificate: x509.Certificate, now: datetime.datetime) -> str:
    """Return the reason to renew a certificate by its dates; "" with more than thirty days left."""
    if certificate.not_valid_before_utc > now:
        return f"not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
    if certificate.not_valid_after_utc - now < RENEW_WHEN_LEFT:
        return f"expires on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    return ""


def certificate_end(pem: bytes) -> datetime.datetime:
    """Return the end of a certificate in PEM, aware."""
    return x509.load_pem_x509_certificate(pem).not_valid_after_utc


def common_name(certificate: x509.Certificate) -> str:
    """Return the common name of a certificate; "" for none."""
    return "".join(str(part.value) for part in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME))


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now: datetime.datetime,
    life: datetime.timedelta,
    *,
    authority_key: ec.EllipticCurvePublicKey,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key), critical=False)
    )


def _subject(common_name: str, unit: str = "") -> x509.Name:
    if not 0 < len(common_name) <= MAX_COMMON_NAME:
        raise CertificateError(
            f"{common_name!r} cannot be a certificate's common name: it has {len(common_name)} characters, "
            f"and 1 to {MAX_COMMON_NAME} are allowed"
        )
    named = [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit)] if unit else []
    return x509.Name([*named, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _alternative_names(certificate: x509.Certificate) -> Sequence[x509.GeneralName]:
    try:
        return list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return []
