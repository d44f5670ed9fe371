"""Checks of signing requests and certificate chains against the request. Pure.

A node writes the signing request, so it may hold anything: nothing of it is kept, sent on or quoted without limit.

cryptography is imported when needed: most controllers never see a certificate.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.config.problems import printable

if TYPE_CHECKING:
    from cryptography import x509

#: A request with a key of 4,096 bits takes 2 KiB.
_MAX_CSR_CHARACTERS: Final = 16 << 10
#: A key takes 5 KiB at most, and 200 characters for each recipient.
_MAX_KEY_CHARACTERS: Final = 16 << 10
_MAX_RECIPIENT_CHARACTERS: Final = 512
_QUOTED_NAMES: Final = 3
#: As long as a DNS name can be.
_QUOTED_CHARACTERS: Final = 253


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
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.oid import ExtensionOID, NameOID

    if len(request.csr_pem) > _MAX_CSR_CHARACTERS:
        raise CertificateMismatch(f"it has {len(request.csr_pem)} characters, more than {_MAX_CSR_CHARACTERS}")
    try:
        csr = x509.load_pem_x509_csr(request.csr_pem.encode())
        signed = csr.is_signature_valid
        names = _dns_names(csr)
        common = [name.value for name in csr.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        others = [extension.oid.dotted_string for extension in csr.extensions]
    except (ValueError, InvalidSignature, UnsupportedAlgorithm, x509.DuplicateExtension) as error:
        raise CertificateMismatch("it cannot be read") from error
    if "".join(csr.public_bytes(Encoding.PEM).decode().split()) != "".join(request.csr_pem.split()):
        # The authority could read another part of it than is checked here.
        raise CertificateMismatch("it holds more than one signing request")
    if not signed:
        raise CertificateMismatch("its signature is not by its own key")
    if names != [host] or any(name != host for name in common):
        raise CertificateMismatch(f"it is for {_quoted([*names, *common])}")
    if others != [ExtensionOID.SUBJECT_ALTERNATIVE_NAME.dotted_string] or len(list(csr.subject)) > len(common):
        # An authority may grant what is asked for, such as the right to issue certificates.
        raise CertificateMismatch("it asks for more than a host")
    if sorted(request.recipients) != sorted(recipients) or not request.key_age:
        raise CertificateMismatch("its key is not encrypted for the requested recipients")
    room = _MAX_KEY_CHARACTERS + _MAX_RECIPIENT_CHARACTERS * len(request.recipients)
    if len(request.key_age) > room:
        raise CertificateMismatch(f"its encrypted key has {len(request.key_age)} characters, more than {room}")


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
        raise CertificateMismatch(f"it is for {_quoted(names)}")
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


def _quoted(names: Sequence[object]) -> str:
    """Return a few names as people may read them: without control characters, and not too long."""
    quoted = [printable(str(name)[:_QUOTED_CHARACTERS]) for name in names[:_QUOTED_NAMES]]
    more = [f"{len(names) - len(quoted)} more"] if len(names) > len(quoted) else []
    return ", ".join([*quoted, *more]) or "no host"


def _issuer(leaf: x509.Certificate) -> str:
    from cryptography.x509.oid import NameOID

    for oid in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME):
        for name in leaf.issuer.get_attributes_for_oid(oid):
            return str(name.value)
    return leaf.issuer.rfc4514_string()
