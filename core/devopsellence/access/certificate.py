"""Certificate of a caller, from the auth context of a gRPC call; serial number and validity of a certificate.

These are read from the certificate's bytes by hand: a library that parses certificates takes memory, and the
certificate has passed a handshake, or is the program's own, so only their place is to be found.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from devopsellence.access.denied import serial_text

_COMMON_NAME: Final = "x509_common_name"
_PEM: Final = "x509_pem_cert"
_SEQUENCE, _VERSION, _INTEGER = 0x30, 0xA0, 0x02
_LONG_FORM: Final = 0x80
_SHORT_MOMENT: Final = len("yymmddhhmmssZ")


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
        der = _first_der(pem)
        start, end = _serial_number(der)
    except (ValueError, IndexError):
        return ""
    return serial_text(int.from_bytes(der[start:end], "big"))


def validity(pem: bytes) -> tuple[datetime, datetime]:
    """Return the first and last moment of the first certificate in a PEM file.

    Raises:
        ValueError: there is none.
    """
    try:
        der = _first_der(pem)
        # Signature algorithm, issuer, then the two moments.
        _, at = _serial_number(der)
        for _ in range(2):
            _, at = _element(der, at, _SEQUENCE)
        at, _ = _element(der, at, _SEQUENCE)
        moments = []
        for _ in range(2):
            start, at = _element(der, at, der[at])
            moments.append(_moment(der[start:at].decode("ascii")))
    except (ValueError, IndexError) as error:
        raise ValueError("there is no certificate in PEM format") from error
    return moments[0], moments[1]


def _moment(text: str) -> datetime:
    """Return a moment of a certificate: with two digits of the year up to 2049, with four from then on."""
    form = "%y%m%d%H%M%SZ" if len(text) == _SHORT_MOMENT else "%Y%m%d%H%M%SZ"
    return datetime.strptime(text, form).replace(tzinfo=UTC)


def _first_der(pem: bytes) -> bytes:
    first, end, _ = pem.decode("ascii").partition(ssl.PEM_FOOTER)
    return ssl.PEM_cert_to_DER_cert(first + end)


def _serial_number(der: bytes) -> tuple[int, int]:
    """Return start and end of the serial number."""
    inner, _ = _element(der, 0, _SEQUENCE)
    at, _ = _element(der, inner, _SEQUENCE)
    if der[at] == _VERSION:
        _, at = _element(der, at, _VERSION)
    return _element(der, at, _INTEGER)


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
