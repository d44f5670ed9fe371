"""Small applications behind Envoy, in this process, that do what a test asks of them by path."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from devopsellence.nodeagent.envoy.model import Endpoint


class App:
    """An HTTP/1.1 server on ``address`` that answers with what it was asked, as JSON.

    ``/slow…`` answers once :meth:`release` was called; ``/die…`` closes the connection without an answer; a request for
    an upgrade to WebSocket gets one, and every line that comes then comes back.
    """

    def __init__(self, name: str, address: str = "127.0.0.1", port: int = 0) -> None:
        self.name = name
        self.asked: list[str] = []
        self.entered = threading.Semaphore(0)
        self._free = threading.Event()
        self._server = _Server((address, port), self)
        self.address, self.port = address, self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
        self._server.shutdown()
        self._server.server_close()

    def endpoint(self, *, draining: bool = False) -> Endpoint:
        return Endpoint(self.name, self.address, self.port, draining)

    def release(self) -> None:
        """Answer what waits."""
        self._free.set()

    def wait(self) -> None:
        """For ``/slow``."""
        self.entered.release()
        assert self._free.wait(60)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], app: App) -> None:
        super().__init__(address, _Handler)
        self.app = app

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections that the other side cut are no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        app = self.server.app
        app.asked.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        if self.headers.get("upgrade", "").lower() == "websocket":
            return self._echo()
        if self.path.startswith("/slow"):
            app.wait()
        if self.path.startswith("/die"):
            self.close_connection = True
            return None
        headers = {key.lower(): value for key, value in self.headers.items()}
        said = {"app": app.name, "method": self.command, "path": self.path, "headers": headers, "bytes": len(body)}
        return self._answer(json.dumps(said).encode())

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815 - the names are http.server's

    def version_string(self) -> str:
        return "an-app/1"

    def log_message(self, *args: Any) -> None:
        pass

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.send_header("content-type", "application/json")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _echo(self) -> None:
        self.send_response(101)
        self.send_header("connection", "upgrade")
        self.send_header("upgrade", "websocket")
        self.end_headers()
        self.server.app.entered.release()
        for line in self.rfile:
            self.wfile.write(self.server.app.name.encode() + b":" + line)
        self.close_connection = True
