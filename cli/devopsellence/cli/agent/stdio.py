"""Async reading of stdin and writing to stdout and stderr, with backpressure.

A full pipe is awaited on the event loop, so that signals and connections keep working and the producer slows down
instead of filling memory.
"""

from __future__ import annotations

import asyncio
import io
import os
import select
from collections.abc import AsyncIterator
from typing import Final, TextIO

_CHUNK: Final = 32 << 10


async def chunks(descriptor: int) -> AsyncIterator[bytes]:
    """Yield chunks from ``descriptor`` until its end; does not set non-blocking mode, because it is shared."""
    while chunk := await _read(descriptor):
        yield chunk


async def _read(descriptor: int) -> bytes:
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    try:
        loop.add_reader(descriptor, ready.set)
    except PermissionError:  # a regular file, not supported by epoll; on a thread, because disks may be slow
        return await asyncio.to_thread(os.read, descriptor, _CHUNK)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)
    try:
        return os.read(descriptor, _CHUNK)
    except OSError:  # the terminal is closed
        return b""


# A writable pipe accepts at least this many bytes without blocking (POSIX: PIPE_BUF on Linux).
_PIECE: Final = 4096


class StdioWriter:
    """Writer of bytes to a text stream such as ``sys.stdout``; nothing else may write to the stream meanwhile."""

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
            BrokenPipeError: the reader has closed the pipe.
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
            except BlockingIOError:  # set to non-blocking by another process, and nearly full
                await _writable(self._descriptor)


def _descriptor(stream: TextIO) -> int | None:
    """Return the file descriptor of a stream; None for a stream in memory."""
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
