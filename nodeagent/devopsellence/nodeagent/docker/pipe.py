"""A connection to a process in a container, for the event loop: no thread reads or writes it.

Whoever does not read stops the process, as a pipe would: the engine's buffers fill, then the process waits.
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
    """Stdin and output of a process. ``tty``: its output is one stream without frames."""

    def __init__(self, connection: HijackedConnection, *, tty: bool) -> None:
        self._socket = connection.socket
        self._ahead = connection.ahead
        self._frames = None if tty else FrameParser()

    async def output(self) -> AsyncIterator[tuple[bool, bytes]]:
        """Pieces of output as they come: whether it is of stderr, and the bytes. Ends when the engine ends it.

        Raises:
            Malformed: the engine sends something else.
        """
        while data := await self._receive():
            if self._frames is None:
                yield False, data
                continue
            for stderr, payload in self._frames.feed(data):
                yield stderr, payload

    async def write(self, data: bytes) -> bool:
        """Returns when the engine has taken it; False if the process takes no more."""
        try:
            await asyncio.get_running_loop().sock_sendall(self._socket, data)
        except OSError:
            return False
        return True

    async def end_input(self) -> None:
        """No more input. A terminal is told as by Ctrl-D: if the connection to one is shut down for writing, the engine
        closes the output as well (moby, ``container/stream/attach.go``)."""
        if self._frames is None:
            await self.write(_END_OF_TRANSMISSION)
            return
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._socket.close()

    async def _receive(self) -> bytes:
        if self._ahead:
            ahead, self._ahead = self._ahead, b""
            return ahead
        try:
            return await asyncio.get_running_loop().sock_recv(self._socket, _CHUNK)
        except ConnectionError:
            return b""
