"""Reading bytes from a pipe, a terminal or a file, one chunk at a time, only when the next one is wanted."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Final

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
