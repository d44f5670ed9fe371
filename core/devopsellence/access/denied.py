"""Certificates that are denied although they are valid: by common name, or by serial number."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Final

from devopsellence.agent_identity import is_node, is_operator
from devopsellence.api.v1.stored_pb2 import DeniedCertificate, DenyList

#: RFC 5280: 20 bytes at most.
_SERIAL: Final = re.compile(r"[1-9a-f][0-9a-f]{0,39}\Z", re.ASCII)
_ROOT: Final = "root"
# A machine with a slow clock still accepts a certificate that has expired here.
_CLOCKS_APART: Final = timedelta(days=1)


class InvalidDenial(ValueError):
    """An entry of a deny-list that denies nothing, or too much; the message says why."""


def check_denial(entry: DeniedCertificate) -> None:
    """Check an entry before it is written.

    Raises:
        InvalidDenial: it names no operator or node, or no serial number.
    """
    if bool(entry.name) is bool(entry.serial):
        raise InvalidDenial("an entry of the deny-list has either a name or a serial number")
    if entry.name and not _is_deniable(entry.name):
        raise InvalidDenial(f"{entry.name!r} cannot be denied by name, only operators and nodes can")
    if entry.serial and not _SERIAL.match(entry.serial):
        raise InvalidDenial(f"{entry.serial!r} is no serial number in lower-case hexadecimal digits")


def serial_text(number: int) -> str:
    """Return a serial number as it is in the deny-list."""
    return f"{number:x}"


def drop_expired(denied: DenyList, now: datetime) -> None:
    """Remove the entries of certificates that have expired, so that the list does not grow for ever."""
    expired_before = (now - _CLOCKS_APART).timestamp()
    left = [
        entry
        for entry in denied.certificates
        if not entry.HasField("expires_at") or entry.expires_at.seconds > expired_before
    ]
    del denied.certificates[:]
    denied.certificates.extend(left)


def denial_of(denied: DenyList, common_name: str, serial: str) -> str:
    """Return why a certificate is denied, as a clause; "" if it is not. An invalid entry denies nothing."""
    for entry in denied.certificates:
        if entry.name and entry.name == common_name and _is_deniable(entry.name):
            return f"the certificate of {common_name} is denied{_because(entry)}"
        if entry.serial and entry.serial == serial:
            return f"the certificate of {common_name} with the serial number {serial} is denied{_because(entry)}"
    return ""


def _is_deniable(name: str) -> bool:
    return is_node(name) or (is_operator(name) and name != _ROOT)


def _because(entry: DeniedCertificate) -> str:
    return f": {entry.reason}" if entry.reason else ""
