"""Client certificate of a program: credentials made of its files, changes of the files, its name and its end.

Name and end are found without a library that parses certificates: those take memory for a rare question.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import cast

import grpc

from devopsellence import input_file
from devopsellence.tls_handshake import shake_hands

_Subject = tuple[tuple[tuple[str, str], ...], ...]


class UnusableCertificate(ValueError):
    """The files of a certificate cannot be used; the message names the file and says why."""


def file_stamps(*paths: Path | None) -> tuple[int, ...] | None:
    """Return the modification times of the given files; None while one is missing."""
    with suppress(OSError):
        return tuple(path.stat().st_mtime_ns for path in paths if path)
    return None


def read_credentials(
    ca_cert: Path | None, cert: Path | None, key: Path | None
) -> tuple[tuple[int, ...], grpc.ChannelCredentials | None]:
    """Return the stamps of the files and the credentials made of them, None without a certificate. Blocks.

    Raises:
        UnusableCertificate: a file cannot be read, or the key does not belong to the certificate, such as between the
            writes of the two.
    """
    if ca_cert is None or cert is None or key is None:
        return (), None
    stamps = file_stamps(ca_cert, cert, key)
    try:
        authority, chain, private = (input_file.read(path) for path in (ca_cert, cert, key))
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key, password="")
    except ssl.SSLError as error:
        raise UnusableCertificate(f"{key} is not the key of {cert}: {error.reason}") from error
    except OSError as error:
        raise UnusableCertificate(f"cannot read a certificate file for etcd: {error}") from error
    if stamps is None or stamps != file_stamps(ca_cert, cert, key):
        raise UnusableCertificate(f"{cert} and {key} changed while they were read")
    return stamps, grpc.ssl_channel_credentials(authority, private, chain)


def certificate_end(ca_cert: Path | None, cert: Path | None, key: Path | None) -> float:
    """Return the end of a client certificate in seconds since the epoch, as a server sees it by a handshake in memory.

    0 without a certificate, or if a server of the authority ``ca_cert`` would not accept it. Blocks.
    """
    if ca_cert is None or cert is None or key is None:
        return 0.0
    try:
        authorities = input_file.read(ca_cert).decode("ascii")
        return float(ssl.cert_time_to_seconds(str(_shown_to_server(authorities, cert, key)["notAfter"])))
    except (OSError, ValueError, KeyError):
        return 0.0


def is_signed_under(authority: str, cert: Path, key: Path) -> bool:
    """Return True if a server that trusts ``authority`` (PEM) alone accepts a client certificate. Blocks."""
    try:
        return bool(_shown_to_server(authority, cert, key))
    except (OSError, ValueError):
        return False


def common_name(cert: Path | None, key: Path | None) -> str:
    """Return the common name of a client certificate; "" without a certificate that is valid now. Blocks."""
    if cert is None or key is None:
        return ""
    try:
        # The certificate is its own authority here, because that of clients need not be that of the servers.
        authority = input_file.read(cert).decode("ascii")
        subject = cast("_Subject", _shown_to_server(authority, cert, key).get("subject", ()))
    except (OSError, ValueError):
        return ""
    return next((value for part in subject for name, value in part if name == "commonName"), "")


def _shown_to_server(authorities: str, cert: Path, key: Path) -> Mapping[str, object]:
    """Return a client certificate as a server sees it that accepts those of ``authorities`` (PEM).

    Raises:
        OSError, ValueError: the files cannot be used, or the server would not accept the certificate.
    """
    client_context, server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client_context.check_hostname = False
    # The peer is this function.
    client_context.verify_mode = ssl.CERT_NONE
    server_context.verify_mode = ssl.CERT_REQUIRED
    server_context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    server_context.load_verify_locations(cadata=authorities)
    for context in (client_context, server_context):
        context.load_cert_chain(cert, key, password="")
    _, server = shake_hands(client_context, server_context)
    return server.getpeercert() or {}
