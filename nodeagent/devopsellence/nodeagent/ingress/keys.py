"""Private keys of certificates: made and sealed here, or opened here; in the clear they are in memory only.

Everything takes a few milliseconds: for a thread. The cryptography library is imported when it is needed, so that an
agent without certificates does not pay for it.
"""

from __future__ import annotations

import re
from typing import Final

from devopsellence.api.v1 import stored_pb2
from devopsellence.names import InvalidName, check_host
from devopsellence.nodeagent.ingress.model import TlsCertificate
from devopsellence.nodeagent.secrets import SecretError, Vault
from devopsellence.sealed import SealError, seal

_ID: Final = re.compile(r"[0-9a-f]{1,64}\Z")


class Unusable(Exception):
    """A certificate cannot be served, or a request for a key not be answered; says why, and holds nothing secret."""


def opened(certificate: stored_pb2.HostCertificate, vault: Vault) -> tuple[TlsCertificate, float]:
    """A certificate with its key in the clear, and until when it is valid (seconds since the epoch).

    Raises:
        Unusable: it is no certificate, its key was not sealed for this node, or the two do not belong together.
    """
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    try:
        first = x509.load_pem_x509_certificates(certificate.chain_pem.encode())[0]
        public = first.public_key()
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise Unusable("it is no certificate in PEM") from error
    try:
        key_pem = vault.key(certificate.key_age)
    except SecretError as error:
        raise Unusable(f"its key cannot be used: {error}") from error
    try:
        key = serialization.load_pem_private_key(key_pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # Not "from": what the library says of a key is nobody's business.
        raise Unusable("its key cannot be used: it is no private key in PEM") from None
    if key.public_key() != public:
        raise Unusable("its key belongs to another certificate")
    made = TlsCertificate(certificate.serial, certificate.chain_pem, key_pem)
    return made, first.not_valid_after_utc.timestamp()


def answer(request: stored_pb2.KeyRequest) -> stored_pb2.SigningRequest:
    """A new EC P-256 key for a host, sealed for those who are to have it, and the request to certify it (RFC 2986).

    The host stands in the subject's alternative names alone, as RFC 8555, section 7.4, and RFC 6125 have it.

    Raises:
        Unusable: the request names no host, or nobody that the key could be sealed for.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    if not _ID.match(request.id):
        raise Unusable(f"its id {request.id!r} is not lower-case hex")
    try:
        host = check_host(request.host)
    except InvalidName as error:
        raise Unusable(str(error)) from error
    key = ec.generate_private_key(ec.SECP256R1())
    encoding = serialization.Encoding.PEM
    pem = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    try:
        sealed = seal(pem, request.recipients)
    except SealError as error:
        raise Unusable(str(error)) from error
    names = x509.SubjectAlternativeName([x509.DNSName(host)])
    asked = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(names, critical=False)
    return stored_pb2.SigningRequest(
        id=request.id,
        csr_pem=asked.sign(key, hashes.SHA256()).public_bytes(encoding).decode(),
        key_age=sealed,
        recipients=request.recipients,
    )
