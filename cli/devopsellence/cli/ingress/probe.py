"""What somebody outside sees of a node: whether a port answers, which certificate it serves, what the app says.

Blocking: call it on a thread. Everything is asked of the node's own address, with the host in SNI and ``Host``, so that
each node is seen, whatever DNS says.
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
    """A certificate as it is served; ``error`` says why none was seen, and then nothing else is said.

    ``distrust``: why this machine does not trust it, "" if it does.
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
    """An answer by HTTP; ``error`` says why there was none. ``location``: where it redirects to, "" if it does not."""

    error: str = ""
    status: int = 0
    location: str = ""


def reachable(address: str, port: int) -> str:
    """Why nothing accepts a connection there; "" if something does."""
    try:
        socket.create_connection((address, port), timeout=SECONDS).close()
    except OSError as error:
        return _why(error)
    return ""


def trust_store() -> ssl.SSLContext:
    """Whom this machine trusts, for :func:`certificate`; it takes a while to make."""
    return ssl.create_default_context()


def certificate(address: str, port: int, host: str, trusted: ssl.SSLContext) -> PresentedCertificate:
    """The certificate that is served for ``host``, and whether ``trusted`` accepts it."""
    from cryptography import x509

    from devopsellence.cli.ingress import pem

    distrust = ""
    try:
        _handshake(address, port, host, trusted)
    except ssl.SSLCertVerificationError as error:
        distrust = error.verify_message or "its certificate cannot be verified"
    except OSError:
        # Said by the next one, if it lasts.
        pass
    try:
        der = _handshake(address, port, host, _anyone())
    except OSError as error:
        return PresentedCertificate(error=_why(error))
    try:
        leaf = x509.load_der_x509_certificate(der)
        names, addresses = pem.subjects(leaf)
    except ValueError:
        return PresentedCertificate(error="what it serves is no readable certificate")
    return PresentedCertificate(
        serial=f"{leaf.serial_number:x}",
        issuer=pem.issuer_of(leaf),
        names=names,
        addresses=addresses,
        not_after=leaf.not_valid_after_utc,
        distrust=distrust,
    )


def answer(address: str, port: int, host: str, path: str, *, secure: bool) -> HttpAnswer:
    """What ``GET path`` for ``host`` is answered; the certificate is looked at by :func:`certificate`."""
    connection = http.client.HTTPConnection(host, timeout=SECONDS)
    try:
        connection.sock = socket.create_connection((address, port), timeout=SECONDS)
        if secure:
            connection.sock = _anyone().wrap_socket(connection.sock, server_hostname=host)
        usual = port == (443 if secure else 80)
        headers = {"Host": host if usual else f"{host}:{port}", "User-Agent": _AGENT, "Connection": "close"}
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return HttpAnswer(status=response.status, location=response.getheader("Location") or "")
    except OSError as error:
        return HttpAnswer(error=_why(error))
    except http.client.HTTPException as error:
        return HttpAnswer(error=f"what it answers is not HTTP ({type(error).__name__})")
    finally:
        connection.close()


def _handshake(address: str, port: int, host: str, context: ssl.SSLContext) -> bytes:
    with (
        socket.create_connection((address, port), timeout=SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=host) as secured,
    ):
        return secured.getpeercert(binary_form=True) or b""


def _anyone() -> ssl.SSLContext:
    """Takes any certificate: which one it is, is what is to be found out. Nothing secret is sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _why(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {SECONDS:.0f} s"
    if isinstance(error, ConnectionRefusedError):
        return "the connection is refused"
    if isinstance(error, ssl.SSLError):
        return f"TLS fails: {(error.reason or 'connection closed').lower().replace('_', ' ')}"
    return (error.strerror or str(error) or type(error).__name__).lower()
