"""What certificates and signing requests say, and whether they are what was asked for. Pure.

cryptography is imported when it is needed: most controllers never meet a certificate.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from devopsellence.api.v1 import stored_pb2 as pb

if TYPE_CHECKING:
    from cryptography import x509


class WrongAnswer(Exception):
    """It is not what was asked for; the message says why."""


@dataclass(frozen=True, slots=True)
class Chain:
    """A host's certificate and those that lead to its authority's, as PEM; and what people ask about the first."""

    pem: str
    serial: str
    issuer: str
    not_before: datetime
    not_after: datetime


def check_request(request: pb.SigningRequest, host: str, recipients: Iterable[str]) -> None:
    """Whether a node's answer is a signing request (RFC 2986) for ``host`` alone, with a key for ``recipients``.

    Raises:
        WrongAnswer: it is not.
    """
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.x509.oid import NameOID

    try:
        csr = x509.load_pem_x509_csr(request.csr_pem.encode())
        signed = csr.is_signature_valid
        names = _dns_names(csr)
        common = [one.value for one in csr.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    except (ValueError, InvalidSignature) as error:
        raise WrongAnswer("it cannot be read") from error
    if not signed:
        raise WrongAnswer("its signature is not by its own key")
    if names != [host] or any(name != host for name in common):
        raise WrongAnswer(f"it is for {', '.join(str(name) for name in [*names, *common]) or 'no host'}")
    if sorted(request.recipients) != sorted(recipients) or not request.key_age:
        raise WrongAnswer("its key is not sealed for those whom it was asked for")


def read_chain(pem: str, csr_pem: str, host: str, now: datetime) -> Chain:
    """What an authority made of a signing request, if it can be served for ``host``.

    Raises:
        WrongAnswer: it cannot: another key, another host, not valid now.
    """
    from cryptography import x509

    try:
        leaf = x509.load_pem_x509_certificates(pem.encode())[0]
        key = x509.load_pem_x509_csr(csr_pem.encode()).public_key()
        names = _dns_names(leaf)
    except ValueError as error:
        raise WrongAnswer("it cannot be read") from error
    if leaf.public_key() != key:
        raise WrongAnswer("it is for another key")
    if host not in names:
        raise WrongAnswer(f"it is for {', '.join(str(name) for name in names) or 'no host'}")
    if leaf.not_valid_after_utc <= now:
        raise WrongAnswer(f"it has expired at {leaf.not_valid_after_utc.isoformat()}")
    return Chain(pem, f"{leaf.serial_number:x}", _issuer(leaf), leaf.not_valid_before_utc, leaf.not_valid_after_utc)


def _dns_names(one: x509.Certificate | x509.CertificateSigningRequest) -> list[object]:
    """All its subject alternative names; those that are no DNS names as they are."""
    from cryptography import x509

    try:
        names = one.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [name.value for name in names]


def _issuer(leaf: x509.Certificate) -> str:
    from cryptography.x509.oid import NameOID

    for oid in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME):
        for name in leaf.issuer.get_attributes_for_oid(oid):
            return str(name.value)
    return leaf.issuer.rfc4514_string()
