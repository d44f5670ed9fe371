"""Program behind ``crypto_worker``: check certificates, create private keys and certificate signing requests (CSRs).

Reads a JSON object on standard input, writes a JSON object to standard output, and exits. Importing the cryptography
library costs a process 8 MiB for good, and the agent needs the library for some milliseconds a month. The input holds
private keys; the output holds none but encrypted keys.
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

from devopsellence.age import EncryptionError, encrypt
from devopsellence.names import InvalidName, check_host
from devopsellence.nodeagent.util.process import protect_memory

_ID: Final = re.compile(r"[0-9a-f]{1,64}\Z")
_MIN_RSA_BITS: Final = 2048


class UnusableInput(Exception):
    """A certificate cannot be served, or a key request cannot be fulfilled; says why, without secrets."""


def check_certificate(chain_pem: str, key_pem: str) -> float:
    """Return the expiry (seconds since the epoch) of a certificate that Envoy accepts together with the key.

    Envoy serves RSA keys of 2,048 bits or more and NIST curves (Envoy, "TLS: certificate selection"); any other
    certificate makes Envoy reject the listener of all hosts.

    Raises:
        UnusableInput: not a certificate, not its key, or not accepted by Envoy.
    """
    try:
        leaf = x509.load_pem_x509_certificates(chain_pem.encode())[0]
        public = leaf.public_key()
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise UnusableInput("it is not a certificate in PEM format") from error
    try:
        key = serialization.load_pem_private_key(key_pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # Not "from": the library's message may quote the key.
        raise UnusableInput("its key cannot be used: it is not a private key in PEM format") from None
    if key.public_key() != public:
        raise UnusableInput("its key belongs to another certificate")
    match public:
        case rsa.RSAPublicKey():
            accepted = public.key_size >= _MIN_RSA_BITS
        case ec.EllipticCurvePublicKey():
            accepted = isinstance(public.curve, (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1))
        case _:
            accepted = False
    if not accepted:
        raise UnusableInput("its key is neither RSA of 2,048 bits or more nor EC P-256, P-384 or P-521")
    return leaf.not_valid_after_utc.timestamp()


def create_csr(request_id: str, host: str, recipients: Sequence[str]) -> tuple[str, str]:
    """Create an EC P-256 key for ``host``; return a CSR (RFC 2986, PEM) and the encrypted key (age).

    The host is in the subject alternative names only, as in RFC 8555, section 7.4, and RFC 6125.

    Raises:
        UnusableInput: the request has an invalid id, host or recipient, or no recipient.
    """
    if not _ID.match(request_id):
        raise UnusableInput(f"its id {request_id!r} is not lower-case hex")
    try:
        host = check_host(host)
    except InvalidName as error:
        raise UnusableInput(str(error)) from error
    key = ec.generate_private_key(ec.SECP256R1())
    encoding = serialization.Encoding.PEM
    pem = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    try:
        encrypted = encrypt(pem, recipients)
    except EncryptionError as error:
        raise UnusableInput(str(error)) from error
    names = x509.SubjectAlternativeName([x509.DNSName(host)])
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(names, critical=False)
    return csr.sign(key, hashes.SHA256()).public_bytes(encoding).decode(), encrypted


def run_tasks(tasks: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the program's output for its input: see ``crypto_worker.Payload``."""
    return {
        "certificates": [_outcome(partial(check_certificate, *arguments)) for arguments in tasks["certificates"]],
        "requests": [_outcome(partial(create_csr, *arguments)) for arguments in tasks["requests"]],
    }


def _outcome(task: Callable[[], object]) -> dict[str, object]:
    """Run a task; a failed task does not stop the remaining tasks."""
    try:
        return {"result": task()}
    except UnusableInput as error:
        return {"unusable": str(error)}
    except BaseException as error:  # noqa: BLE001 - the library's own panics too; the message may quote secrets
        return {"unusable": f"it is malformed ({type(error).__name__})"}


if __name__ == "__main__":
    protect_memory()
    json.dump(run_tasks(json.load(sys.stdin)), sys.stdout)
