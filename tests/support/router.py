"""Stand-in for a node's Envoy, as clients see it: plain HTTP, and HTTPS by SNI."""

from __future__ import annotations

import http.server
import ssl
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.certificates import SignedCertificate


class Router:
    """HTTP and HTTPS server on ``address``, on free ports. A context manager.

    ``status``: status of all responses; ``redirect``: redirect HTTP to HTTPS. Certificates can be set at any time.
    """

    def __init__(self, address: str, folder: Path) -> None:
        self.address = address
        self.status = 200
        self.redirect = False
        self.paths: list[str] = []
        self._folder = folder
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._plain = _Server((address, 0), self._handler(secure=False))
        self._secure = _Server((address, 0), self._handler(secure=True))
        self.http_port, self.https_port = self._plain.server_address[1], self._secure.server_address[1]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.sni_callback = self._chosen
        self._secure.context = context
        self._threads = [threading.Thread(target=server.serve_forever, args=(0.01,)) for server in self._servers]

    @property
    def _servers(self) -> list[_Server]:
        return [self._plain, self._secure]

    def serve(self, host: str, certificate: SignedCertificate, *issuers: SignedCertificate) -> None:
        """Serve a certificate for ``host`` from now on."""
        chain, key = self._folder / f"{host}.pem", self._folder / f"{host}.key"
        chain.write_bytes(b"".join(link.pem for link in (certificate, *issuers)))
        key.write_bytes(certificate.key_pem())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain, key)
        self._contexts[host] = context

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()
        for thread in self._threads:
            thread.join()

    def _chosen(self, connection: ssl.SSLObject, host: str | None, _context: ssl.SSLContext) -> int | None:
        if host not in self._contexts:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        connection.context = self._contexts[host]
        return None

    def _handler(self, *, secure: bool) -> type[http.server.BaseHTTPRequestHandler]:
        router = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host = str(self.headers["Host"])
                router.paths.append(f"{'https' if secure else 'http'}://{host}{self.path}")
                redirects = not secure and router.redirect
                self.send_response(308 if redirects else router.status)
                if redirects:
                    self.send_header("Location", f"https://{host.partition(':')[0]}{self.path}")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Log nothing."""

        return Handler


class _Server(http.server.ThreadingHTTPServer):
    """Server with TLS if ``context`` is set; the handshake runs on the thread of the connection."""

    daemon_threads = True
    context: ssl.SSLContext | None = None

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self.context is None:
            super().finish_request(request, client_address)
            return
        try:
            secured = self.context.wrap_socket(request, server_side=True)
        except OSError:
            # A client that only looks at the certificate, or does not trust it.
            return
        with secured:
            super().finish_request(secured, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore connections closed by the client."""
