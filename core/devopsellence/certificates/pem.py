"""Certificates and private keys in files: PEM, and PKCS #12 for a key with a passphrase."""

from __future__ import annotations

from pathlib import Path
from typing import Final, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs12

from devopsellence import input_file

#: Rounds of PBKDF2-HMAC-SHA256 that make guesses of the passphrase slow (OWASP's cheat sheet on password storage).
_PASSPHRASE_ROUNDS: Final = 600_000
_DER_SEQUENCE: Final = b"\x30"


class CertificateError(Exception):
    """A certificate or key cannot be created, read or used; the message has the file and the reason."""


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
