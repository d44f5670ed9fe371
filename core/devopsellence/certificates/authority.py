"""A small certificate authority (CA): EC P-256 keys, PEM files, private keys readable only by their owner.

The common name of a client certificate is the identity at gateways and agents. The root authority signs an issuing
authority, which signs leaves; that of a local cluster, or of one made by an earlier version, signs leaves itself.
"""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from devopsellence.certificates.facts import (
    alternative_names,
    basic_constraints,
    common_name,
    is_signed_by,
    life_of,
    why_expires,
)
from devopsellence.certificates.files import KeyPair
from devopsellence.certificates.life import LEAF_LIFE, Life
from devopsellence.certificates.pem import CertificateError, load_certificate, load_certificates, load_key

ROOT_LIFE: Final = datetime.timedelta(days=3650)
ISSUING_LIFE: Final = datetime.timedelta(days=365)
#: Life of a leaf that nothing renews: an etcd member's, and all leaves of clusters without an issuing authority.
LONG_LIFE: Final = datetime.timedelta(days=365)
# Clocks of machines differ a little; a certificate must be valid on a machine with a slow clock.
BACKDATE: Final = datetime.timedelta(hours=1)
MAX_COMMON_NAME: Final = 64  # RFC 5280, appendix A.1: ub-common-name


@dataclass(frozen=True)
class CertificateRequest:
    """Content of a leaf certificate.

    ``common_name`` is the identity. ``server_names`` are the DNS names and IP addresses of a server; empty in a client
    certificate. Server certificates are client certificates as well, because etcd members connect to each other.
    ``client_names`` are further DNS names, by which a server chooses its clients. ``unit`` is for people, but
    for ``subjects.FIXED_TERM``, and gives no access. ``life`` is that of a leaf by an issuing authority.
    """

    common_name: str
    server_names: tuple[str, ...] = ()
    client_names: tuple[str, ...] = ()
    unit: str = ""
    life: datetime.timedelta = LEAF_LIFE

    def alternative_names(self) -> list[x509.GeneralName]:
        return [_general_name(name) for name in (*self.server_names, *self.client_names)]


class CertificateAuthority:
    """CA for leaf certificates: a root, or an issuing authority that the root has signed.

    ``root`` is the certificate of the root that has signed an issuing authority; None for a root. ``also_trusted`` are
    other roots of the cluster, while its root is being replaced.
    """

    def __init__(
        self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, root: x509.Certificate | None = None
    ) -> None:
        self.certificate = certificate
        self._key = key
        self.also_trusted: tuple[x509.Certificate, ...] = ()
        #: True for a root, which signs leaves itself where there is no issuing authority.
        self.is_root = root is None
        self.root = root or certificate

    @classmethod
    def create(cls, name: str, now: datetime.datetime) -> CertificateAuthority:
        """Create a root called ``name``, valid for ten years from ``now`` (aware)."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _subject(name)
        builder = _builder(subject, subject, key.public_key(), (now, now + ROOT_LIFE), key.public_key())
        return cls(_signed_authority(builder, 1, key), key)

    def create_issuing(self, name: str, now: datetime.datetime) -> CertificateAuthority:
        """Create an issuing authority called ``name``, valid for a year from ``now``, never longer than this root."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(
            _subject(name),
            self.certificate.subject,
            key.public_key(),
            (now, self._end(now, ISSUING_LIFE)),
            self._key.public_key(),
        )
        return CertificateAuthority(_signed_authority(builder, 0, self._key), key, self.certificate)

    @classmethod
    def load(
        cls, certificate: Path, key: Path, *, trusted: Path | None = None, passphrase: str = ""
    ) -> CertificateAuthority:
        """Load a CA from two PEM files; its key may be encrypted with a passphrase.

        ``trusted`` is a PEM file of roots: the CA is one of them, or signed by one. Without it, the CA is a root.

        Raises:
            CertificateError: a file is missing or unreadable, the key does not match or the passphrase is wrong; or no
                root has signed the certificate.
        """
        loaded, private = load_certificate(certificate), load_key(key, passphrase)
        if private.public_key() != loaded.public_key():
            raise CertificateError(f"{key} is not the key of the certificate {certificate}")
        if not basic_constraints(loaded).ca:
            raise CertificateError(f"{certificate} is not the certificate of an authority")
        if trusted is None:
            return cls(loaded, private)
        root = next((root for root in load_certificates(trusted) if is_signed_by(loaded, root)), None)
        if root is None:
            raise CertificateError(f"{certificate} is not signed by an authority in {trusted}")
        return cls(loaded, private, root if root != loaded else None)

    @property
    def issued(self) -> KeyPair:
        """Certificate and key of the CA as PEM."""
        return KeyPair(_pem(self.certificate), _private_pem(self._key))

    @property
    def trusted(self) -> bytes:
        """PEM of the root, and of the other one while it is being replaced: what others trust."""
        return b"".join(_pem(root) for root in (self.root, *self.also_trusted))

    @property
    def life(self) -> Life:
        return life_of(self.certificate)

    @property
    def can_create_issuing(self) -> bool:
        """True for a root, but for one made by a version without issuing authorities."""
        return bool(basic_constraints(self.certificate).path_length)

    def issue(
        self,
        request: CertificateRequest,
        now: datetime.datetime,
        *,
        key: ec.EllipticCurvePrivateKey | None = None,
        life: datetime.timedelta | None = None,
    ) -> KeyPair:
        """Issue a leaf certificate, with a new key unless ``key`` is given; see :meth:`sign`.

        Raises:
            CertificateError: the common name is empty or longer than 64 characters.
        """
        key = key or ec.generate_private_key(ec.SECP256R1())
        return KeyPair(self.sign(request, key.public_key(), now, life), _private_pem(key))

    def sign(
        self,
        request: CertificateRequest,
        public_key: ec.EllipticCurvePublicKey,
        now: datetime.datetime,
        life: datetime.timedelta | None = None,
    ) -> bytes:
        """Return a leaf certificate for a key, with the issuing authority behind it, valid from ``now``.

        ``life``: by default that of the request, or a year if a root signs. The leaf never outlives the CA.

        Raises:
            CertificateError: the CA has expired; or the common name is empty or longer than 64 characters.
        """
        if self.life.ends <= now:
            raise CertificateError(f"the authority has expired on {self.life.ends:%Y-%m-%d %H:%M} UTC")
        life = life or (LONG_LIFE if self.is_root else request.life)
        builder = _builder(
            _subject(request.common_name, request.unit),
            self.certificate.subject,
            public_key,
            (now, self._end(now, life)),
            self._key.public_key(),
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
        return _pem(certificate) + (b"" if self.is_root else _pem(self.certificate))

    def _end(self, now: datetime.datetime, life: datetime.timedelta) -> datetime.datetime:
        return min(now + life, self.certificate.not_valid_after_utc)

    def why_renew(self, certificate: x509.Certificate, request: CertificateRequest, now: datetime.datetime) -> str:
        """Return the reason to renew ``certificate`` for ``request``; "" for none."""
        if common_name(certificate) != request.common_name:
            return f"issued for {common_name(certificate)!r}, not {request.common_name!r}"
        if set(alternative_names(certificate)) != set(request.alternative_names()):
            return "issued for other names"
        if not is_signed_by(certificate, self.certificate):
            return "not signed by this CA"
        return why_expires(certificate, now)


def request_like(certificate: x509.Certificate) -> CertificateRequest:
    """Return the request for a further certificate with the same identity and names."""
    names = tuple(str(name.value) for name in alternative_names(certificate))
    return CertificateRequest(common_name(certificate), names)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    valid: tuple[datetime.datetime, datetime.datetime],
    authority_key: ec.EllipticCurvePublicKey,
) -> x509.CertificateBuilder:
    begins, ends = valid
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins - BACKDATE)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key), critical=False)
    )


def _signed_authority(
    builder: x509.CertificateBuilder, path_length: int, key: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_key_usage(sign_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
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


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
