"""Client side of HTTP/1.1 (RFC 9112) and WebSocket (RFC 6455), without retries."""

from __future__ import annotations

import asyncio
import base64
import os
import ssl
import struct
from dataclasses import dataclass
from typing import Final, Self

_MOST: Final = 1 << 20  # bytes of a body
_TEXT: Final = 0x1
_CLOSE: Final = 0x8


class BadAnswer(Exception):
    """Bad or missing answer; ``status`` is the HTTP status, 0 without an answer."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class HttpAnswer:
    """HTTP answer. ``last``: the server closes the connection afterwards."""

    status: int
    headers: dict[str, str]
    body: bytes
    last: bool


class Connection:
    """Connection to a server, for requests in sequence."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self._reader = reader
        self._writer = writer
        self._host = host

    @classmethod
    async def to(cls, address: str, port: int, host: str, trust: ssl.SSLContext | None = None) -> Self:
        """Connect, and check the certificate if there is ``trust``."""
        return cls(*await asyncio.open_connection(address, port, ssl=trust, server_hostname=trust and host), host)

    async def get(self, path: str, *, headers: str = "") -> HttpAnswer:
        """Request ``path``; Broken if no complete answer comes."""
        self._writer.write(f"GET {path} HTTP/1.1\r\nHost: {self._host}\r\n{headers}\r\n".encode())
        try:
            status, answer_headers = self._head(await self._reader.readuntil(b"\r\n\r\n"))
            body = b"" if status in (101, 204, 304) else await self._body(answer_headers)
        except asyncio.IncompleteReadError as error:
            before = "before the answer" if not error.partial else "in the middle of the answer"
            raise BadAnswer(f"the connection was closed {before}") from error
        return HttpAnswer(status, answer_headers, body, answer_headers.get("connection", "").lower() == "close")

    async def socket(self, path: str) -> None:
        """Upgrade the connection to a WebSocket."""
        key = base64.b64encode(os.urandom(16)).decode()
        wanted = (
            f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
        )
        answer = await self.get(path, headers=wanted)
        if answer.status != 101:
            raise BadAnswer(
                f"no WebSocket: {answer.status} {answer.body[:100].decode(errors='replace')}", answer.status
            )

    async def exchange(self, word: bytes) -> bytes:
        """Send a word of at most 125 bytes over the WebSocket; return the answer."""
        self._send(_TEXT, word)
        kind, answer = await self._receive()
        if kind != _TEXT:
            raise BadAnswer("the WebSocket was closed by the other end")
        return answer

    async def end_socket(self) -> None:
        """Close the WebSocket and wait for the other end to close."""
        self._send(_CLOSE, struct.pack(">H", 1000))
        while (await self._receive())[0] != _CLOSE:
            pass

    async def closed(self) -> None:
        """Wait until the server has closed the connection."""
        await self._reader.read()

    def close(self) -> None:
        self._writer.close()

    def _send(self, kind: int, content: bytes) -> None:
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(content))
        self._writer.write(bytes((0x80 | kind, 0x80 | len(content))) + mask + masked)

    async def _receive(self) -> tuple[int, bytes]:
        try:
            first, length = await self._reader.readexactly(2)
            return first & 0xF, await self._reader.readexactly(length & 0x7F)
        except asyncio.IncompleteReadError as error:
            raise BadAnswer("the WebSocket's connection was closed without a word") from error

    @staticmethod
    def _head(head: bytes) -> tuple[int, dict[str, str]]:
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = (line.partition(":") for line in lines if line)
        return int(first.split()[1]), {name.lower(): value.strip() for name, _, value in headers}

    async def _body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding", "").lower() != "chunked":
            return await self._reader.readexactly(min(int(headers.get("content-length", 0)), _MOST))
        body = b""
        while size := int((await self._reader.readuntil(b"\r\n")).split(b";")[0], 16):
            body += (await self._reader.readexactly(size + 2))[:-2]
            if len(body) > _MOST:
                raise BadAnswer("the body has no end")
        await self._reader.readuntil(b"\r\n")
        return body
