"""Reading from and writing to this process's own streams on the event loop, at the speed of the other side."""

from __future__ import annotations

import asyncio
import io
import os
import select
from collections.abc import AsyncIterator
from typing import Final, TextIO

_CHUNK: Final = 32 << 10


async def chunks(descriptor: int) -> AsyncIterator[bytes]:
    """What can be read from ``descriptor`` until its end. Does not make it non-blocking: others share it."""
    while chunk := await _read(descriptor):
        yield chunk


async def _read(descriptor: int) -> bytes:
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    try:
        loop.add_reader(descriptor, ready.set)
    except PermissionError:  # a file: always readable, so not for epoll, but a disk may be slow
        return await asyncio.to_thread(os.read, descriptor, _CHUNK)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)
    try:
        return os.read(descriptor, _CHUNK)
    except OSError:  # the terminal has gone
        return b""


# Once a pipe is writable it takes at least as much without waiting (POSIX: PIPE_BUF on Linux).
_PIECE: Final = 4096


class StdioWriter:
    """The bytes under a text stream such as ``sys.stdout``; nothing else may write there meanwhile."""

    def __init__(self, stream: TextIO) -> None:
        stream.flush()
        self._stream = stream
        self._descriptor = _descriptor(stream)
        self._poll = select.poll()
        if self._descriptor is not None:
            self._poll.register(self._descriptor, select.POLLOUT)

    async def write(self, data: bytes) -> None:
        """Write all of ``data``.

        Raises:
            BrokenPipeError: nobody reads any more.
        """
        if self._descriptor is None:
            self._stream.buffer.write(data)
            self._stream.buffer.flush()
            return
        left = memoryview(data)
        while left:
            if not self._poll.poll(0):
                await _writable(self._descriptor)
            try:
                left = left[os.write(self._descriptor, left[:_PIECE]) :]
            except BlockingIOError:  # somebody else made it non-blocking, and it takes less than a piece
                await _writable(self._descriptor)


def _descriptor(stream: TextIO) -> int | None:
    """None for a stream that is only in memory."""
    try:
        return stream.fileno()
    except io.UnsupportedOperation:
        return None


async def _writable(descriptor: int) -> None:
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_writer(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(descriptor)
