"""A small certificate authority (CA): EC P-256 keys, PEM files, private keys readable only by their owner.

The common name of a client certificate is the identity at gateways and agents. The root authority signs an issuing
authority, which signs leaves; that of a local cluster, or of one made by an earlier version, signs leaves itself.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from devopsellence import input_file
from devopsellence.certificates.files import KeyPair
from devopsellence.certificates.life import LEAF_LIFE, Life

ROOT_LIFE: Final = datetime.timedelta(days=3650)
ISSUING_LIFE: Final = datetime.timedelta(days=365)
#: Life of a leaf that nothing renews: an etcd member's, and all leaves of clusters without an issuing authority.
LONG_LIFE: Final = datetime.timedelta(days=365)
# Clocks of machines differ a little; a certificate must be valid on a machine with a slow clock.
BACKDATE: Final = datetime.timedelta(hours=1)
#: Rounds of PBKDF2-HMAC-SHA256 that make guesses of the passphrase slow (OWASP's cheat sheet on password storage).
_PASSPHRASE_ROUNDS: Final = 600_000
_DER_SEQUENCE: Final = b"\x30"
MAX_COMMON_NAME: Final = 64  # RFC 5280, appendix A.1: ub-common-name


class CertificateError(Exception):
    """A certificate or key cannot be created, read or used; the message has the file and the reason."""


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
        if not _basic_constraints(loaded).ca:
            raise CertificateError(f"{certificate} is not the certificate of an authority")
        if trusted is None:
            return cls(loaded, private)
        root = next((root for root in load_certificates(trusted) if _is_signed_by(loaded, root)), None)
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
        return bool(_basic_constraints(self.certificate).path_length)

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
        if set(_alternative_names(certificate)) != set(request.alternative_names()):
            return "issued for other names"
        if not _is_signed_by(certificate, self.certificate):
            return "not signed by this CA"
        return why_expires(certificate, now)


def request_like(certificate: x509.Certificate) -> CertificateRequest:
    """Return the request for a further certificate with the same identity and names."""
    names = tuple(str(name.value) for name in _alternative_names(certificate))
    return CertificateRequest(common_name(certificate), names)


def load_certificate(path: Path) -> x509.Certificate:
    """Load the first certificate in a PEM file.

    Raises:
        CertificateError: the file is missing, unreadable or not a certificate.
    """
    try:
        return x509.load_pem_x509_certificate(input_file.read(path))
    except (OSError, ValueError) as error:
        raise CertificateError(f"cannot read the certificate {path}: {error}") from error


def load_certificates(path: Path) -> list[x509.Certificate]:
    """Load all certificates in a PEM file.

    Raises:
        CertificateError: the file is missing, unreadable or holds none.
    """
    try:
        return x509.load_pem_x509_certificates(input_file.read(path))
    except (OSError, ValueError) as error:
        raise CertificateError(f"cannot read the certificates {path}: {error}") from error


def load_key(path: Path, passphrase: str = "") -> ec.EllipticCurvePrivateKey:
    """Load the private key in a PEM file, or in a file encrypted by :func:`encrypted_key`.

    Raises:
        CertificateError: the file is missing or unreadable, holds another kind of key, or needs another passphrase.
    """
    try:
        content = input_file.read(path)
        key = _decrypted(content, passphrase) if _is_pkcs12(content) else _plain(content)
    except (OSError, ValueError, TypeError) as error:  # TypeError: it is encrypted as PEM
        raise CertificateError(f"cannot read the key {path}: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CertificateError(f"{path} is not an elliptic curve key")
    return key


def is_encrypted(path: Path) -> bool:
    """Return True if a key file needs a passphrase.

    Raises:
        CertificateError: the file cannot be read.
    """
    try:
        return _is_pkcs12(input_file.read(path))
    except OSError as error:
        raise CertificateError(f"cannot read the key {path}: {error}") from error


def encrypted_key(key: bytes, passphrase: str) -> bytes:
    """Return the content of a key file that needs a passphrase: PKCS #12, as ``openssl pkcs12`` reads.

    Not PEM's own encryption, for which the library derives the key in 2,048 rounds, too few against guessing; nor age,
    which adapts to the speed of the machine and refuses on one that is much slower.
    """
    encryption = (
        serialization.PrivateFormat.PKCS12.encryption_builder()
        .kdf_rounds(_PASSPHRASE_ROUNDS)
        .key_cert_algorithm(pkcs12.PBES.PBESv2SHA256AndAES256CBC)
        .hmac_hash(hashes.SHA256())
        .build(passphrase.encode())
    )
    return pkcs12.serialize_key_and_certificates(None, _plain(key), None, None, encryption)


def _is_pkcs12(content: bytes) -> bool:
    return content.startswith(_DER_SEQUENCE)


def _decrypted(content: bytes, passphrase: str) -> object:
    if not passphrase:
        raise ValueError("it needs a passphrase")
    try:
        return pkcs12.load_key_and_certificates(content, passphrase.encode())[0]
    except ValueError as error:
        raise ValueError("the passphrase is wrong") from error


def _plain(content: bytes) -> ec.EllipticCurvePrivateKey:
    # Other kinds of keys are told apart by the caller.
    return cast("ec.EllipticCurvePrivateKey", serialization.load_pem_private_key(content, password=None))


def fingerprint(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of a certificate in hexadecimal."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def life_of(certificate: x509.Certificate) -> Life:
    return Life(certificate.not_valid_before_utc, certificate.not_valid_after_utc)


def why_expires(certificate: x509.Certificate, now: datetime.datetime) -> str:
    """Return the reason to renew a certificate by its dates; "" within the first two thirds of its life."""
    life = life_of(certificate)
    if life.begins > now:
        return f"not valid before {life.begins:%Y-%m-%d %H:%M} UTC"
    return f"expires on {life.ends:%Y-%m-%d %H:%M} UTC" if now >= life.renewal_due else ""


def certificate_end(pem: bytes) -> datetime.datetime:
    """Return the end of the first certificate in PEM, aware."""
    return x509.load_pem_x509_certificate(pem).not_valid_after_utc


def common_name(certificate: x509.Certificate) -> str:
    """Return the common name of a certificate; "" for none."""
    return "".join(str(part.value) for part in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME))


def unit(certificate: x509.Certificate) -> str:
    """Return the unit of a certificate; "" for none."""
    return "".join(
        str(part.value) for part in certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    )


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


def _basic_constraints(certificate: x509.Certificate) -> x509.BasicConstraints:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (x509.ExtensionNotFound, ValueError):
        return x509.BasicConstraints(ca=False, path_length=None)


def _is_signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


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


def _alternative_names(certificate: x509.Certificate) -> Sequence[x509.GeneralName]:
    try:
        return list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return []
