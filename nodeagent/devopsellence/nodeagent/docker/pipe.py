"""Stdin and output of a process in a container, for the event loop, without a thread.

Backpressure as with a pipe: unless the output is read, the engine's buffers fill up and the process waits.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final

from devopsellence.nodeagent.docker.frames import FrameParser
from devopsellence.nodeagent.docker.streams import HijackedConnection

_CHUNK: Final = 64 * 1024
_END_OF_TRANSMISSION: Final = b"\x04"


class ProcessPipe:
    """Stdin and output of a process. ``tty``: the output is a single stream without frames."""

    def __init__(self, connection: HijackedConnection, *, tty: bool) -> None:
        self._socket = connection.socket
        self._buffered = connection.buffered
        self._frames = None if tty else FrameParser()

    async def output(self) -> AsyncIterator[tuple[bool, bytes]]:
        """Yield output as (is stderr, bytes), until the engine closes the stream.

        Raises:
            MalformedFrame: the engine sends invalid frames.
        """
        while data := await self._receive():
            if self._frames is None:
                yield False, data
                continue
            for stderr, payload in self._frames.feed(data):
                yield stderr, payload

    async def write(self, data: bytes) -> bool:
        """Write to stdin, waiting for the engine to accept the data; False if the process accepts no more input."""
        try:
            await asyncio.get_running_loop().sock_sendall(self._socket, data)
        except OSError:
            return False
        return True

    async def end_input(self) -> None:
        """Close stdin. For a terminal send Ctrl-D instead: shutting down a terminal's connection for writing makes the
        engine close the output too (moby, ``container/stream/attach.go``)."""
        if self._frames is None:
            await self.write(_END_OF_TRANSMISSION)
            return
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    async def _receive(self) -> bytes:
        if self._buffered:
            buffered, self._buffered = self._buffered, b""
            return buffered
        try:
            return await asyncio.get_running_loop().sock_recv(self._socket, _CHUNK)
        except ConnectionError:
            return b""
