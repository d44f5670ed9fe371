"""Search service with a password; finds a single book."""

import json
import os
import signal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PASSWORD = os.environ["SEARCH_PASSWORD"]


class Search(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        ready = self.path == "/ready"
        allowed = ready or self.headers.get("Authorization") == f"Bearer {PASSWORD}"
        self.send_response(200 if allowed else 401)
        self.end_headers()
        self.wfile.write(json.dumps({"found": "Operators at work"} if allowed else {}).encode())


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    ThreadingHTTPServer(("", 9200), Search).serve_forever()
