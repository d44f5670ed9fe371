"""What needs the cryptography library, for ``aside``: certificates are judged, private keys made and sealed.

As a program it answers one JSON object on its standard input with one on its standard output: the library takes 8 MiB
for good in a process that has imported it once, and the agent needs it for some milliseconds a month. What goes in
holds private keys, what comes out none.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from devopsellence.age import SealError, seal
from devopsellence.names import InvalidName, check_host

_ID: Final = re.compile(r"[0-9a-f]{1,64}\Z")
_MIN_RSA_BITS: Final = 2048


class Unusable(Exception):
    """A certificate cannot be served, or a request for a key not be answered; says why, and holds nothing secret."""


def judged(chain_pem: str, key_pem: str) -> float:
    """Until when a certificate is valid (seconds since the epoch), of one that Envoy takes with this key.

    Envoy serves RSA keys of 2,048 bits and more and the curves of NIST (Envoy, "TLS: certificate selection"); for one
    that it does not take it refuses the listener of all hosts.

    Raises:
        Unusable: it is no certificate, the key is not its own, or Envoy would not take them.
    """
    try:
        first = x509.load_pem_x509_certificates(chain_pem.encode())[0]
        public = first.public_key()
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise Unusable("it is no certificate in PEM") from error
    try:
        key = serialization.load_pem_private_key(key_pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # Not "from": what the library says of a key is nobody's business.
        raise Unusable("its key cannot be used: it is no private key in PEM") from None
    if key.public_key() != public:
        raise Unusable("its key belongs to another certificate")
    match public:
        case rsa.RSAPublicKey():
            fits = public.key_size >= _MIN_RSA_BITS
        case ec.EllipticCurvePublicKey():
            fits = isinstance(public.curve, (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1))
        case _:
            fits = False
    if not fits:
        raise Unusable("its key is neither RSA of 2,048 bits or more nor EC P-256, P-384 or P-521")
    return first.not_valid_after_utc.timestamp()


def answer(asked: str, host: str, recipients: Sequence[str]) -> tuple[str, str]:
    """To the request for a key ``asked``: a new EC P-256 key for ``host``, as a request to certify it (RFC 2986, PEM),
    and sealed for ``recipients``.

    The host stands in the subject's alternative names alone, as RFC 8555, section 7.4, and RFC 6125 have it.

    Raises:
        Unusable: the request names no host, or nobody that the key could be sealed for.
    """
    if not _ID.match(asked):
        raise Unusable(f"its id {asked!r} is not lower-case hex")
    try:
        host = check_host(host)
    except InvalidName as error:
        raise Unusable(str(error)) from error
    key = ec.generate_private_key(ec.SECP256R1())
    encoding = serialization.Encoding.PEM
    pem = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    try:
        sealed = seal(pem, recipients)
    except SealError as error:
        raise Unusable(str(error)) from error
    names = x509.SubjectAlternativeName([x509.DNSName(host)])
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(names, critical=False)
    return csr.sign(key, hashes.SHA256()).public_bytes(encoding).decode(), sealed


def answered(said: Mapping[str, Any]) -> dict[str, list[Any]]:
    """What the program answers to what it is told: see ``aside.Questions``."""
    return {
        "certificates": [_outcome(partial(judged, *each)) for each in said["certificates"]],
        "requests": [_outcome(partial(answer, *each)) for each in said["requests"]],
    }


def _outcome(work: Callable[[], object]) -> dict[str, object]:
    """One that is broken is no reason to leave the others."""
    try:
        return {"found": work()}
    except Unusable as error:
        return {"unusable": str(error)}
    except BaseException as error:  # noqa: BLE001 - the library's own panics too; its words may quote what is secret
        return {"unusable": f"it is malformed ({type(error).__name__})"}


if __name__ == "__main__":
    json.dump(answered(json.load(sys.stdin)), sys.stdout)
