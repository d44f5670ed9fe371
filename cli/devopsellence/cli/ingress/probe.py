"""Probes of a node from outside: open ports, presented certificate, HTTP response.

Blocking: call on a thread. Probes connect to the address of the node, with the host in SNI and ``Host``, so that every
node is probed independently of DNS.
"""

from __future__ import annotations

import http.client
import socket
import ssl
from dataclasses import dataclass
from datetime import datetime
from typing import Final

SECONDS: Final = 5.0
_AGENT: Final = "devopsellence-ingress-check"


@dataclass(frozen=True)
class PresentedCertificate:
    """Certificate presented by a node; ``error`` is the reason if there is none, and the rest is empty then.

    ``distrust`` is the reason why this machine does not trust the certificate, "" if trusted.
    """

    error: str = ""
    serial: str = ""
    issuer: str = ""
    names: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    not_after: datetime | None = None
    distrust: str = ""


@dataclass(frozen=True)
class HttpAnswer:
    """HTTP response; ``error`` is the reason if there is none, ``location`` the target of a redirect or ""."""

    error: str = ""
    status: int = 0
    location: str = ""


def reachable(address: str, port: int) -> str:
    """Return "" if the port accepts connections, else the reason."""
    try:
        socket.create_connection((address, port), timeout=SECONDS).close()
    except OSError as error:
        return _reason(error)
    return ""


def trust_store() -> ssl.SSLContext:
    """Return the trust store of this machine, for :func:`certificate`; slow to create."""
    return ssl.create_default_context()


def certificate(address: str, port: int, host: str, trusted: ssl.SSLContext) -> PresentedCertificate:
    """Return the certificate presented for ``host``, validated against ``trusted``."""
    from cryptography import x509

    from devopsellence.cli.ingress import pem

    distrust = ""
    try:
        _handshake(address, port, host, trusted)
    except ssl.SSLCertVerificationError as error:
        distrust = error.verify_message or "the certificate cannot be verified"
    except OSError:
        # Reported by the next handshake, if permanent.
        pass
    try:
        der = _handshake(address, port, host, _without_verification())
    except OSError as error:
        return PresentedCertificate(error=_reason(error))
    try:
        leaf = x509.load_der_x509_certificate(der)
        names, addresses = pem.subjects(leaf)
    except ValueError:
        return PresentedCertificate(error="the presented certificate is unreadable")
    return PresentedCertificate(
        serial=f"{leaf.serial_number:x}",
        issuer=pem.issuer_of(leaf),
        names=names,
        addresses=addresses,
        not_after=leaf.not_valid_after_utc,
        distrust=distrust,
    )


def answer(address: str, port: int, host: str, path: str, *, secure: bool) -> HttpAnswer:
    """Return the response to ``GET path`` for ``host``, without validating the certificate."""
    connection = http.client.HTTPConnection(host, timeout=SECONDS)
    try:
        connection.sock = socket.create_connection((address, port), timeout=SECONDS)
        if secure:
            connection.sock = _without_verification().wrap_socket(connection.sock, server_hostname=host)
        usual = port == (443 if secure else 80)
        headers = {"Host": host if usual else f"{host}:{port}", "User-Agent": _AGENT, "Connection": "close"}
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return HttpAnswer(status=response.status, location=response.getheader("Location") or "")
    except OSError as error:
        return HttpAnswer(error=_reason(error))
    except http.client.HTTPException as error:
        return HttpAnswer(error=f"the response is not HTTP ({type(error).__name__})")
    finally:
        connection.close()


def _handshake(address: str, port: int, host: str, context: ssl.SSLContext) -> bytes:
    with (
        socket.create_connection((address, port), timeout=SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=host) as secured,
    ):
        return secured.getpeercert(binary_form=True) or b""


def _without_verification() -> ssl.SSLContext:
    """Return a TLS context that accepts any certificate, because probes inspect certificates and send no secrets."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {SECONDS:.0f} s"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, ssl.SSLError):
        return f"TLS fails: {(error.reason or 'connection closed').lower().replace('_', ' ')}"
    return (error.strerror or str(error) or type(error).__name__).lower()
