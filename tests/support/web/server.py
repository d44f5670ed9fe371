"""Plain web server that ends at once on SIGTERM, in the middle of answers, as most apps do.

Only the ingress can keep requests from failing meanwhile. ``VERSION`` is the answer; the version "broken" is never
healthy.

``/up``: health. ``/version`` and every other path: the version. ``/slow?seconds=2``: the version after a while.
``/work?ms=0.5``: the version after so much computing. ``/headers``: the request headers as JSON. ``/ws``: a WebSocket
that echoes each word after the version.
"""

import asyncio
import base64
import hashlib
import json
import os
import signal
import time
from urllib.parse import parse_qs, urlsplit

VERSION = os.environ.get("VERSION", "")
PORT = int(os.environ.get("PORT", "3000"))
MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
CLOSE = 0x8


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve a connection until the client closes."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.split("\r\n")
            headers = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)
            }
            await reader.readexactly(int(headers.get("content-length", 0)))
            url = urlsplit(first.split()[1])
            if url.path == "/ws":
                await echo(reader, writer, headers.get("sec-websocket-key", ""))
                return
            status, body = await answer(url.path, url.query, headers)
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body.encode())}\r\n\r\n{body}".encode())
            if headers.get("connection", "").lower() == "close":
                return
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # the client has gone
    finally:
        writer.close()


async def answer(path: str, query: str, headers: dict[str, str]) -> tuple[str, str]:
    """Return status and body."""
    if path == "/up":
        return ("500 Broken", "broken") if VERSION == "broken" else ("200 OK", "up")
    if path == "/slow":
        await asyncio.sleep(min(600.0, float(parse_qs(query).get("seconds", ["1"])[0])))
    if path == "/work":
        compute(float(parse_qs(query).get("ms", ["0.5"])[0]) / 1000)
    if path == "/headers":
        return "200 OK", json.dumps(headers)
    return "200 OK", VERSION


def compute(seconds: float) -> None:
    """Keep the processor busy for so long, like an app's own code."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: str) -> None:
    """Serve a WebSocket until the client closes. Words have at most 117 bytes, a frame each."""
    accepted = base64.b64encode(hashlib.sha1((key + MAGIC).encode(), usedforsecurity=False).digest()).decode()
    upgrade = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    writer.write(f"{upgrade}Sec-WebSocket-Accept: {accepted}\r\n\r\n".encode())
    while True:
        kind, length = await reader.readexactly(2)
        mask = await reader.readexactly(4)
        masked = await reader.readexactly(length & 0x7F)
        content = bytes(byte ^ mask[at % 4] for at, byte in enumerate(masked))
        ends = kind & 0xF == CLOSE
        payload = content if ends else f"{VERSION} ".encode() + content
        writer.write(bytes((kind, len(payload))) + payload)
        await writer.drain()
        if ends:
            return


async def main() -> None:
    """Serve forever."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, os._exit, 0)
    server = await asyncio.start_server(serve, "", PORT, backlog=512)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
