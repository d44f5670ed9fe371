"""Root authorities that a program trusts: the record of them, and the program's file.

There are two while the cluster's root authority is replaced. A program adds an authority as soon as the record has it,
and drops one only if its own certificate does without. Parsed by the TLS library, because cryptography takes memory.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Sequence
from typing import Final

from devopsellence import input_file
from devopsellence.api.v1.stored_pb2 import Authorities
from devopsellence.atomic_file import write_atomic
from devopsellence.certificates.files import locked
from devopsellence.client_certificate import is_signed_under
from devopsellence.server_certificate import CertificateFiles

#: Most authorities at a time: the one before a rotation, and the one after.
MOST_AUTHORITIES: Final = 2
_LONGEST_PEM: Final = 4096


class InvalidAuthorities(ValueError):
    """A record of authorities that cannot be used; the message says why."""


class AuthorityNeeded(Exception):
    """An authority cannot be dropped yet, because the program's own certificate is signed under it."""


def certificates_in(pem: bytes) -> list[bytes]:
    """Return the authorities (DER) in a PEM text.

    Raises:
        ValueError: it is malformed, or holds none.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=pem.decode("ascii"))
    except ssl.SSLError as error:
        raise ValueError(f"no certificates in PEM format: {error.reason}") from error
    found = context.get_ca_certs(binary_form=True)
    if not found:
        raise ValueError("no certificate of an authority")
    return found


def check_authorities(record: Authorities) -> None:
    """Check that clients can use a record.

    Raises:
        InvalidAuthorities: there are too few or too many authorities, or one of them is malformed.
    """
    if not 0 < len(record.certificates) <= MOST_AUTHORITIES:
        raise InvalidAuthorities(f"{len(record.certificates)} authorities, where one or two are needed")
    for pem in record.certificates:
        try:
            count = len(certificates_in(pem.encode())) if len(pem) <= _LONGEST_PEM else 0
        except ValueError as error:
            raise InvalidAuthorities(f"an authority cannot be read: {error}") from error
        if count != 1 or pem.count(ssl.PEM_HEADER) != 1:
            raise InvalidAuthorities("an authority is not a single certificate")


def trust(files: CertificateFiles, record: Authorities, also: Sequence[CertificateFiles] = ()) -> bool:
    """Make the file of authorities that of the record; return True if it was another. Blocks.

    ``also``: further certificates of the program that no authority may be dropped for.

    Raises:
        InvalidAuthorities: the record cannot be used. AuthorityNeeded: it lacks the one that a certificate of the
            program is signed under. OSError, ValueError: a file cannot be read or written.
        Busy: another process is replacing certificates in the folder.
    """
    check_authorities(record)
    pem = "".join(_one_line_end(text) for text in record.certificates)
    wanted, held = set(certificates_in(pem.encode())), set(certificates_in(input_file.read(files.authority)))
    if wanted == held:
        return False
    for own in () if held <= wanted else (files, *also):
        if not is_signed_under(pem, own.certificate, own.key):
            raise AuthorityNeeded(f"{own.certificate} is signed under an authority that is being dropped")
    with locked(files.authority.parent):
        write_atomic(files.authority, pem.encode(), mode=0o644)
    return True


def should_renew(files: CertificateFiles, record: Authorities) -> bool:
    """Return True if the program's certificate is not signed under the first authority of the record. Blocks."""
    return not is_signed_under(record.certificates[0], files.certificate, files.key)


def by_fingerprint(pem: bytes) -> dict[str, str]:
    """Return the authorities in a PEM text, each as PEM, by the SHA-256 of its certificate in hexadecimal.

    Raises:
        ValueError: as :func:`certificates_in`.
    """
    return {hashlib.sha256(der).hexdigest(): ssl.DER_cert_to_PEM_cert(der) for der in certificates_in(pem)}


def _one_line_end(pem: str) -> str:
    return pem.rstrip("\n") + "\n"
