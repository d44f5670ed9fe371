"""Certificate signing requests (PKCS #10): made by whoever wants a certificate, checked by whoever signs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

#: A request with an EC key and an empty subject takes about 200 bytes.
MAX_BYTES: Final = 4096


class InvalidRequest(ValueError):
    """A signing request that nothing is signed for; the message is a clause that says why."""


@dataclass(frozen=True)
class SigningRequest:
    """Signing request (DER), and its key (PEM)."""

    csr: bytes
    key: bytes = field(repr=False)


def new_request(key: ec.EllipticCurvePrivateKey | None = None) -> SigningRequest:
    """Return a signing request for ``key``, by default a new EC P-256 key; its subject is empty, as signers know it."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return SigningRequest(csr.public_bytes(serialization.Encoding.DER), pem)


def key_in(csr: bytes) -> ec.EllipticCurvePublicKey:
    """Return the public key of a request whose sender has the private key. Nothing else in it is read.

    Raises:
        InvalidRequest: it is too large, malformed, has a key of another kind, or is not signed with its key.
    """
    if len(csr) > MAX_BYTES:
        raise InvalidRequest(f"the signing request has {len(csr)} bytes, and {MAX_BYTES} are the most")
    try:
        request = x509.load_der_x509_csr(csr)
        key = request.public_key()
        is_supported = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
        # Not for other keys, which may be of any size.
        is_signed = is_supported and request.is_signature_valid
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        # The library's own panics too, which are no Exception.
        raise InvalidRequest("the signing request is malformed") from error
    if not is_supported:
        raise InvalidRequest("the key of the signing request is not EC P-256")
    if not is_signed:
        raise InvalidRequest("the signing request is not signed with its own key")
    return cast("ec.EllipticCurvePublicKey", key)
