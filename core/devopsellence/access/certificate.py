"""Certificate of a caller, from the auth context of a gRPC call.

The serial number is read from the certificate's bytes by hand: a library that parses certificates takes memory, and
this certificate has passed the handshake, so only the place of the number is to be found.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from devopsellence.access.denied import serial_text

_COMMON_NAME: Final = "x509_common_name"
_PEM: Final = "x509_pem_cert"
_SEQUENCE, _VERSION, _INTEGER = 0x30, 0xA0, 0x02
_LONG_FORM: Final = 0x80


@dataclass(frozen=True, slots=True)
class Certificate:
    """Identity of a certificate: common name, and serial number as in the deny-list.

    The common name is empty for a certificate with several or none.
    """

    common_name: str
    serial: str = ""


def common_names(identities: Mapping[str, Iterable[bytes]]) -> list[str]:
    """Return the common names of the caller's certificate."""
    return [name.decode(errors="backslashreplace") for name in identities.get(_COMMON_NAME) or ()]


def certificate_of(identities: Mapping[str, Iterable[bytes]]) -> Certificate:
    """Return the caller's certificate."""
    names = common_names(identities)
    serials = [serial_number(pem) for pem in identities.get(_PEM) or ()]
    return Certificate(names[0] if len(names) == 1 else "", serials[0] if len(serials) == 1 else "")


@lru_cache(maxsize=4096)
def serial_number(pem: bytes) -> str:
    """Return the serial number of a certificate; "" if it has none, so no entry of a deny-list has it.

    RFC 5280, 4.1: the first element of the inner sequence, but for a version.
    """
    try:
        der = ssl.PEM_cert_to_DER_cert(pem.decode("ascii"))
        inner, _ = _element(der, 0, _SEQUENCE)
        at, _ = _element(der, inner, _SEQUENCE)
        if der[at] == _VERSION:
            _, at = _element(der, at, _VERSION)
        start, end = _element(der, at, _INTEGER)
    except (ValueError, IndexError):
        return ""
    return serial_text(int.from_bytes(der[start:end], "big"))


def _element(der: bytes, at: int, wanted: int) -> tuple[int, int]:
    """Return start and end of the content of the element at ``at``.

    Raises:
        ValueError, IndexError: it has another tag than ``wanted``, or is cut.
    """
    tag, length, start = der[at], der[at + 1], at + 2
    if length & _LONG_FORM:
        size = length & ~_LONG_FORM
        length, start = int.from_bytes(der[start : start + size], "big"), start + size
    if tag != wanted or start + length > len(der):
        raise ValueError("not the expected element")
    return start, start + length
