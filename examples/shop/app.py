"""A small shop: counts its visitors in Redis and keeps the day's offer in memcached.

Shows the requirements of an app under devopsellence, using the standard library and two client libraries: read settings
from the environment, answer ``/up``, start without Redis and memcached, finish current requests on SIGTERM, then stop.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import threading
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import page
from stores import Counter, Offers, Visit

VERSION = "1"

log = logging.getLogger("shop")


class Shop:
    """Features of the app, independent of HTTP."""

    def __init__(self, counter: Counter, offers: Offers) -> None:
        self._counter = counter
        self._offers = offers

    def visit(self) -> Visit:
        """Count one visit and look up the offer. Missing data is explained in ``problems``."""
        problems: list[str] = []
        visits = self._counter.count(problems)
        offer = self._offers.offer(problems)
        return Visit(VERSION, socket.gethostname(), visits, offer, tuple(problems))


class Server(ThreadingHTTPServer):
    """HTTP server with a thread per request; closing waits for current requests."""

    daemon_threads = False
    request_queue_size = 128

    def __init__(self, port: int, shop: Shop) -> None:
        super().__init__(("", port), Handler)
        self.shop = shop


class Handler(BaseHTTPRequestHandler):
    """``/`` for people, ``/?format=json`` for scripts, ``/up`` for the health check."""

    server: Server
    server_version = "shop"
    sys_version = ""
    timeout = 5  # seconds that a silent client may hold a thread

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path == "/up":
            # Only checks this process, not Redis: replacing the web container would not fix Redis.
            self._answer(HTTPStatus.OK, "text/plain; charset=utf-8", "up\n")
        elif url.path == "/":
            self._home(as_json="json" in parse_qs(url.query).get("format", []))
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", "There is no such page.\n")

    def do_HEAD(self) -> None:
        self.do_GET()

    def _home(self, *, as_json: bool) -> None:
        visit = self.server.shop.visit()
        # Without Redis the count is missing: an error. Without the cache the page is complete.
        status = HTTPStatus.OK if visit.visits is not None else HTTPStatus.SERVICE_UNAVAILABLE
        if as_json:
            self._answer(status, "application/json", json.dumps(visit.as_json()) + "\n")
        else:
            self._answer(status, "text/html; charset=utf-8", page.render(visit))

    def _answer(self, status: HTTPStatus, content_type: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - name of the base class
        if not self.path.startswith("/up"):
            log.info("%s %s", self.address_string(), format % args)


def shop_from(environ: Mapping[str, str]) -> Shop:
    """Create the shop from ``REDIS_URL`` and ``MEMCACHE_SERVERS`` (``host:port``, comma separated)."""
    return Shop(
        Counter.at(environ.get("REDIS_URL", "redis://localhost:6379/0")),
        Offers.at(environ.get("MEMCACHE_SERVERS", "localhost:11211")),
    )


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    port = int(os.environ.get("PORT", "3000"))
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with Server(port, shop_from(os.environ)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        log.info("version %s listens on port %d", VERSION, port)
        stop.wait()
        log.info("stopping: no new requests, those under way are answered")
        server.shutdown()
        thread.join()
    log.info("stopped")


if __name__ == "__main__":
    main()
