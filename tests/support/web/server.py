"""A web server that ends as an app should: asked to, it goes on answering for a while, tells its clients to go
elsewhere, finishes what it is answering, and ends.

``VERSION`` is what ``/`` answers; ``/up`` fails for the version "broken". ``LINGER`` is how many seconds it goes on.
"""

import os
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

VERSION = os.environ.get("VERSION", "")
LINGER = float(os.environ.get("LINGER", "1"))
leaving = threading.Event()


class Handler(BaseHTTPRequestHandler):
    """Keeps connections open until the server leaves."""

    protocol_version = "HTTP/1.1"
    # Otherwise the head and the body are two packets, and the second waits for the first one's acknowledgement.
    wbufsize = -1

    def do_GET(self) -> None:
        """Answer with the version, or how the server is."""
        well = self.path != "/up" or VERSION != "broken"
        body = (VERSION if self.path != "/up" else "up" if well else "broken").encode()
        self.send_response(200 if well else 500)
        self.send_header("Content-Length", str(len(body)))
        if leaving.is_set():
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """Accepts as many at once as come."""

    request_queue_size = 128
    daemon_threads = True


def asked_to_end(*_: object) -> None:
    """Not here and now: the server's own thread waits for this one."""
    leaving.set()
    threading.Thread(target=leave).start()


def leave() -> None:
    """Go on for a while, then end."""
    time.sleep(LINGER)
    server.shutdown()


server = Server(("", 3000), Handler)
signal.signal(signal.SIGTERM, asked_to_end)
server.serve_forever()
# What came last is answered.
time.sleep(0.2)
