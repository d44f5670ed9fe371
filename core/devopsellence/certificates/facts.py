"""Facts in a certificate: identity, names, life, and who has signed it. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from devopsellence.certificates.life import Life


def fingerprint(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of a certificate in hexadecimal."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def life_of(certificate: x509.Certificate) -> Life:
    """Return the first and last moment of a certificate."""
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


def basic_constraints(certificate: x509.Certificate) -> x509.BasicConstraints:
    """Return whether a certificate is that of an authority, and how many may be below it."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (x509.ExtensionNotFound, ValueError):
        return x509.BasicConstraints(ca=False, path_length=None)


def is_signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Return True if the key of ``authority`` has signed a certificate."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def alternative_names(certificate: x509.Certificate) -> Sequence[x509.GeneralName]:
    """Return the DNS names and addresses in a certificate."""
    try:
        return list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return []
