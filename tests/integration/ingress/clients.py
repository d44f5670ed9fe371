"""HTTP, TLS and WebSocket clients with full control of requests, and raw responses."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import ssl
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from tests.integration.ingress.envoys import authority
from tests.support.need import lack
from tests.support.run import run

TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class Response:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def app_json(self) -> Any:
        """Description of the request by an :class:`apps.App`."""
        return json.loads(self.body)


class Client:
    """Client with a single persistent connection, with TLS if ``server_name`` is given.

    ``own``: the folder with the client's own certificate and key.
    """

    def __init__(self, port: int, *, server_name: str = "", alpn: str = "http/1.1", own: Path | None = None) -> None:
        raw = socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS)
        self.socket = secured(raw, server_name, alpn, own=own) if server_name else raw
        self._connection = http.client.HTTPConnection("unused", timeout=TIMEOUT_SECONDS)
        self._connection.sock = self.socket
        self._connection.auto_open = False

    def close(self) -> None:
        self._connection.close()

    def request(
        self, path: str, *, host: str = "a.example", method: str = "GET", body: bytes = b"", **headers: str
    ) -> Response:
        """Send a request and return the response. Headers are keywords with ``_`` for ``-``."""
        self.begin(path, host=host, method=method, body=body, **headers)
        return self.finish()

    def begin(
        self, path: str, *, host: str = "a.example", method: str = "GET", body: bytes = b"", **headers: str
    ) -> None:
        self._connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        self._connection.putheader("Host", host)
        for key, value in headers.items():
            self._connection.putheader(key.replace("_", "-"), value)
        if body:
            self._connection.putheader("Content-Length", str(len(body)))
        self._connection.endheaders(body or None)

    def finish(self) -> Response:
        response = self._connection.getresponse()
        body = response.read()
        return Response(response.status, {key.lower(): value for key, value in response.getheaders()}, body)

    def serial(self) -> int:
        """Return the serial number of the server's certificate."""
        from cryptography import x509

        assert isinstance(self.socket, ssl.SSLSocket)
        certificate = self.socket.getpeercert(binary_form=True)
        assert certificate
        return x509.load_der_x509_certificate(certificate).serial_number


def request(port: int, path: str, *, server_name: str = "", **more: Any) -> Response:
    """Send a request on a new connection."""
    with closing(Client(port, server_name=server_name)) as client:
        return client.request(path, **more)


def send_raw(port: int, request: bytes) -> bytes:
    """Send bytes that no client would send; return everything until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def secured(connection: socket.socket, server_name: str, *alpn: str, own: Path | None = None) -> ssl.SSLSocket:
    """Return the connection with TLS, trusting the tests' certificate authority only."""
    context = ssl.create_default_context(cadata=authority().trusted.decode())
    if own is not None:
        context.load_cert_chain(own / "cert.pem", own / "key.pem")
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context.wrap_socket(connection, server_hostname=server_name)


def curl(port: int, host: str, *options: str, check: bool = True) -> CompletedProcess[str]:
    """Run ``curl https://<host>:<port>/`` with these options, without verifying the certificate."""
    if shutil.which("curl") is None:
        lack("needs curl on PATH")
    resolve = ["--resolve", f"{host}:{port}:127.0.0.1"]
    return run(["curl", "-sk", *resolve, *options, f"https://{host}:{port}/"], check=check)


class WebSocket:
    """WebSocket connection that exchanges lines."""

    def __init__(self, port: int, *, host: str = "a.example", secure: bool = False) -> None:
        plain = socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS)
        self._socket = secured(plain, host, "http/1.1") if secure else plain
        self._socket.sendall(
            f"GET /ws HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGVzdHMgb2YgaW5ncmVzcw==\r\n\r\n".encode()
        )
        self._file = self._socket.makefile("rb")
        self.status = int(self._file.readline().split()[1])
        while self._file.readline().strip():
            pass

    def echo(self, line: str) -> str:
        self._socket.sendall(line.encode() + b"\n")
        return self._file.readline().decode().strip()

    def close(self) -> None:
        self._file.close()
        self._socket.close()
