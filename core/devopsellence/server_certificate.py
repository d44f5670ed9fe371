"""Certificate of a gRPC server that requires client certificates: an agent's API, a controller's gateway.

The files are checked at every connection, so a renewed certificate needs no restart.
"""

from __future__ import annotations

import ssl
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import grpc
import structlog

from devopsellence import input_file
from devopsellence.tls_handshake import shake_hands

if TYPE_CHECKING:
    from collections.abc import Callable

    from grpc.aio import Server

_log = structlog.get_logger()


class CertificateProblem(Exception):
    """The certificate cannot be used; the message says which file and why."""


class ListenProblem(Exception):
    """A server cannot listen; the message has the reason and the fix."""


@dataclass(frozen=True)
class CertificateFiles:
    """PEM files: the certificate authority of callers, and the certificate and key of this server."""

    authority: Path
    certificate: Path
    key: Path

    @classmethod
    def in_folder(cls, root: Path) -> CertificateFiles:
        """Return the files in a folder of a node, an operator or a controller."""
        return cls(root / "ca.crt", root / "tls.crt", root / "tls.key")

    def stamps(self) -> tuple[int, ...]:
        """Return the modification times of the files."""
        return tuple(path.stat().st_mtime_ns for path in (self.authority, self.certificate, self.key))


class ReloadingCertificate:
    """Server credentials that are reloaded when their files change.

    Raises:
        CertificateProblem: a file cannot be read, or the key does not belong to the certificate.
    """

    def __init__(self, files: CertificateFiles) -> None:
        self._files = files
        self._lock = threading.Lock()
        self._stamps, self._first = self._read()

    def credentials(self) -> grpc.ServerCredentials:
        """Return credentials, for one server, that require a client certificate of the authority."""
        # None is documented, and missing from the type stubs.
        newest = cast("Callable[[], grpc.ServerCertificateConfiguration]", self._newest)
        return grpc.dynamic_ssl_server_credentials(self._first, newest, require_client_authentication=True)

    def _newest(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the newest certificate, None if it is in use already; called by threads of gRPC for each connection.

        Half-written files are left for the next connection. gRPC takes whatever is returned in place of what it has,
        without a lock: with a certificate for every connection, some hundred connections at once crash the process.
        """
        with self._lock:
            with suppress(OSError):
                if self._files.stamps() == self._stamps:
                    return None
            try:
                self._stamps, current = self._read()
            except CertificateProblem as problem:
                _log.warning("the certificate cannot be reloaded; the one before stays in use", problem=str(problem))
                return None
            return current

    def _read(self) -> tuple[tuple[int, ...], grpc.ServerCertificateConfiguration]:
        files = self._files
        try:
            stamps = files.stamps()
            authority, certificate, key = (
                input_file.read(path) for path in (files.authority, files.certificate, files.key)
            )
            _context(files)
        except ssl.SSLError as error:
            raise CertificateProblem(f"{files.key} is not the key of {files.certificate}: {error.reason}") from error
        except OSError as error:
            raise CertificateProblem(f"{error.filename} cannot be read: {error.strerror}") from error
        return stamps, grpc.ssl_server_certificate_configuration([(key, certificate)], authority)


def open_port(server: Server, name: str, address: str, files: CertificateFiles) -> str:
    """Open the port of a server, called ``name`` in messages; return the address with the port that was opened.

    Raises:
        ListenProblem: the address is in use, or the certificate cannot be used.
    """
    try:
        port = server.add_secure_port(address, ReloadingCertificate(files).credentials())
    except CertificateProblem as problem:
        raise ListenProblem(f"{name}'s certificate cannot be used: {problem}") from problem
    except RuntimeError as error:
        raise ListenProblem(f"{name} cannot listen on {address}: is the port in use?") from error
    return f"{address.rpartition(':')[0]}:{port}"


def certificate_expiry(files: CertificateFiles, server_name: str) -> float:
    """Return the certificate's expiry in seconds since the epoch, if callers accept it for ``server_name``.

    Checked as callers do: by a TLS handshake, in memory.

    Raises:
        CertificateProblem: callers would not accept it, and why.
    """
    try:
        client_context = ssl.create_default_context(cafile=str(files.authority))
        client, _ = shake_hands(client_context, _context(files), server_name)
    except ssl.SSLCertVerificationError as error:
        raise CertificateProblem(f"callers do not accept {files.certificate}: {error.verify_message}") from error
    except (OSError, ValueError) as error:
        raise CertificateProblem(f"{files.certificate} cannot be used: {error}") from error
    certificate = client.getpeercert() or {}
    return float(ssl.cert_time_to_seconds(str(certificate["notAfter"])))


def _context(files: CertificateFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    return context
