"""Checks of signing requests and certificate chains against the request. Pure.

cryptography is imported when needed: most controllers never see a certificate.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from devopsellence.api.v1 import stored_pb2 as pb

if TYPE_CHECKING:
    from cryptography import x509


class CertificateMismatch(Exception):
    """A signing request or certificate differs from the request; the message says how."""


@dataclass(frozen=True, slots=True)
class CertificateChain:
    """Certificate of a host with its intermediates, as PEM, and the main fields of the certificate."""

    pem: str
    serial: str
    issuer: str
    not_before: datetime
    not_after: datetime


def check_request(request: pb.SigningRequest, host: str, recipients: Iterable[str]) -> None:
    """Check that ``request`` is a signing request (RFC 2986) for ``host`` alone, with a key for ``recipients``.

    Raises:
        CertificateMismatch: the check fails.
    """
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.x509.oid import NameOID

    try:
        csr = x509.load_pem_x509_csr(request.csr_pem.encode())
        signed = csr.is_signature_valid
        names = _dns_names(csr)
        common = [name.value for name in csr.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    except (ValueError, InvalidSignature) as error:
        raise CertificateMismatch("it cannot be read") from error
    if not signed:
        raise CertificateMismatch("its signature is not by its own key")
    if names != [host] or any(name != host for name in common):
        raise CertificateMismatch(f"it is for {', '.join(str(name) for name in [*names, *common]) or 'no host'}")
    if sorted(request.recipients) != sorted(recipients) or not request.key_age:
        raise CertificateMismatch("its key is not encrypted for the requested recipients")


def read_chain(pem: str, csr_pem: str, host: str, now: datetime) -> CertificateChain:
    """Parse the chain issued for a signing request, and check that it can be served for ``host``.

    Raises:
        CertificateMismatch: the certificate has another key or host, or has expired at ``now``.
    """
    from cryptography import x509

    try:
        leaf = x509.load_pem_x509_certificates(pem.encode())[0]
        key = x509.load_pem_x509_csr(csr_pem.encode()).public_key()
        names = _dns_names(leaf)
    except ValueError as error:
        raise CertificateMismatch("it cannot be read") from error
    if leaf.public_key() != key:
        raise CertificateMismatch("it is for another key")
    if host not in names:
        raise CertificateMismatch(f"it is for {', '.join(str(name) for name in names) or 'no host'}")
    if leaf.not_valid_after_utc <= now:
        raise CertificateMismatch(f"it has expired at {leaf.not_valid_after_utc.isoformat()}")
    return CertificateChain(
        pem, f"{leaf.serial_number:x}", _issuer(leaf), leaf.not_valid_before_utc, leaf.not_valid_after_utc
    )


def _dns_names(document: x509.Certificate | x509.CertificateSigningRequest) -> list[object]:
    """Return all subject alternative names; names of other types than DNS unchanged."""
    from cryptography import x509

    try:
        names = document.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [name.value for name in names]


def _issuer(leaf: x509.Certificate) -> str:
    from cryptography.x509.oid import NameOID

    for oid in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME):
        for name in leaf.issuer.get_attributes_for_oid(oid):
            return str(name.value)
    return leaf.issuer.rfc4514_string()
