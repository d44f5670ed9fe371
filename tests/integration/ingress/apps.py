"""Small applications behind Envoy, in this process; the path of a request chooses the behaviour."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from devopsellence.nodeagent.envoy.model import Endpoint


class App:
    """HTTP/1.1 server on ``address``, whose responses describe the request as JSON.

    ``/slow…`` responds once :meth:`release` was called; ``/die…`` closes the connection without a response; WebSocket
    upgrades are accepted, and every line is echoed.
    """

    def __init__(self, name: str, address: str = "127.0.0.1", port: int = 0) -> None:
        self.name = name
        self.requests: list[str] = []
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
        """Respond to all waiting requests."""
        self._free.set()

    def wait(self) -> None:
        """Block a request to ``/slow`` until :meth:`release`."""
        self.entered.release()
        assert self._free.wait(60)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], app: App) -> None:
        super().__init__(address, _Handler)
        self.app = app

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore connections closed by the client."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        app = self.server.app
        app.requests.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        if self.headers.get("upgrade", "").lower() == "websocket":
            return self._echo()
        if self.path.startswith("/slow"):
            app.wait()
        if self.path.startswith("/die"):
            self.close_connection = True
            return None
        headers = {key.lower(): value for key, value in self.headers.items()}
        request = {"app": app.name, "method": self.command, "path": self.path, "headers": headers, "bytes": len(body)}
        return self._answer(json.dumps(request).encode())

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
