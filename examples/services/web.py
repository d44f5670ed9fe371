"""The bookshop's page: counts visits in Redis, puts a mail on the queue for each, queries the search service."""

import json
import os
import signal
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import redis

VERSION = "1"
STORE = redis.Redis.from_url(os.environ["REDIS_URL"], decode_responses=True)


class Page(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/up":
            self.answer({"up": True})
            return
        visits = STORE.incr("visits")
        STORE.rpush("mails", f"visit {visits}")
        self.answer({"version": VERSION, "visits": visits, "schema": STORE.get("schema"), "book": found_book()})

    def answer(self, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def found_book() -> str:
    request = urllib.request.Request(os.environ["SEARCH_URL"] + "/?q=etcd")
    request.add_header("Authorization", f"Bearer {os.environ['SEARCH_PASSWORD']}")
    with urllib.request.urlopen(request, timeout=2) as answer:
        return json.load(answer)["found"]


if __name__ == "__main__":
    server = ThreadingHTTPServer(("", 3000), Page)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    print(f"version {VERSION} answers on port 3000", flush=True)
    server.serve_forever()
