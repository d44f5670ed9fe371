"""Parser of the engine's output stream: frames with stdout or stderr, and log entries. Pure.

Without a terminal the engine multiplexes stdout and stderr into frames: stream number, size and payload (Engine API,
"Attach to a container", stream format). A frame of a log holds exactly one entry.
"""

from __future__ import annotations

import datetime
import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

#: Number of the stdout stream; higher numbers are stderr and, as a third stream, the engine's own errors.
STDOUT: Final = 1
_HEADER: Final = struct.Struct(">BxxxL")
#: Upper limit for a frame: the engine's buffers have 32 KiB, a log entry 16 KiB.
MAX_FRAME_BYTES: Final = 1 << 20
#: ``2026-01-01T00:00:00``
_SECOND: Final = 19


class MalformedFrame(Exception):
    """The bytes are not a valid frame."""


class FrameParser:
    """Incremental parser of frames; input arrives in pieces of any size."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[bool, bytes]]:
        """Add input and yield each complete frame as (is stderr, payload).

        Raises:
            MalformedFrame: a frame is larger than any frame of the engine.
        """
        pending = self._pending
        pending += data
        position = 0
        while len(pending) - position >= _HEADER.size:
            stream, size = _HEADER.unpack_from(pending, position)
            if size > MAX_FRAME_BYTES:
                raise MalformedFrame(f"a frame of {size} bytes exceeds the limit")
            end = position + _HEADER.size + size
            if len(pending) < end:
                break
            if size:
                yield stream > STDOUT, bytes(pending[position + _HEADER.size : end])
            position = end
        del pending[:position]


def log_entry(payload: bytes) -> tuple[int, int, bytes]:
    """Return seconds and nanoseconds of a log entry, and the line without its newline.

    Both numbers are 0 for an entry without a time (the engine's own message about an unreadable log).
    """
    stamp, space, line = payload.partition(b" ")
    at = _time(stamp) if space else None
    if at is None:
        return 0, 0, payload.removesuffix(b"\n")
    return *at, line.removesuffix(b"\n")


def _time(stamp: bytes) -> tuple[int, int] | None:
    """Return seconds and nanoseconds of ``2026-01-01T00:00:00.123456789Z``; None for anything else."""
    seconds = _seconds(stamp[:_SECOND])
    rest = stamp[_SECOND:]
    if seconds is None or not rest.endswith(b"Z"):
        return None
    digits = rest[:-1].removeprefix(b".")
    if len(digits) > 9 or not (digits.isdigit() or not digits):
        return None
    return seconds, int(digits.ljust(9, b"0"))


@lru_cache(maxsize=16)
def _seconds(stamp: bytes) -> int | None:
    """Parse the seconds; cached, because neighbouring lines usually share the same second."""
    try:
        moment = datetime.datetime.fromisoformat(stamp.decode("ascii"))
        return int(moment.replace(tzinfo=datetime.UTC).timestamp())
    except ValueError:
        return None
