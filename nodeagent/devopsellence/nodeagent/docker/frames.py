"""What the engine sends over a connection: frames of output, and a line of a log within each. Pure.

Without a terminal the engine puts stdout and stderr into one stream, in frames of a stream number, a size and that many
bytes (Engine API, "Attach to a container", stream format). A log has exactly one entry in each frame.
"""

from __future__ import annotations

import datetime
import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

#: Stream numbers; the engine's own errors come as a third and count as stderr here.
STDOUT: Final = 1
_HEADER: Final = struct.Struct(">BxxxL")
#: Larger ones the engine does not send: its buffers have 32 KiB, a log's entry 16 KiB.
MAX_FRAME_BYTES: Final = 1 << 20
#: ``2026-01-01T00:00:00``
_SECOND: Final = 19


class MalformedFrame(Exception):
    """These bytes are no frames."""


class FrameParser:
    """Frames out of bytes that arrive in pieces of any size."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[bool, bytes]]:
        """Each frame that is whole now: whether it is of stderr, and what is in it.

        Raises:
            Malformed: a frame is larger than any that the engine sends.
        """
        pending = self._pending
        pending += data
        position = 0
        while len(pending) - position >= _HEADER.size:
            stream, size = _HEADER.unpack_from(pending, position)
            if size > MAX_FRAME_BYTES:
                raise MalformedFrame(f"a frame of {size} bytes")
            end = position + _HEADER.size + size
            if len(pending) < end:
                break
            if size:
                yield stream > STDOUT, bytes(pending[position + _HEADER.size : end])
            position = end
        del pending[:position]


def log_entry(payload: bytes) -> tuple[int, int, bytes]:
    """Seconds and nanoseconds of when the engine received a line, and the line without its end.

    An entry without a time (the engine's own words in a log that cannot be read) has zeros.
    """
    stamp, space, line = payload.partition(b" ")
    at = _time(stamp) if space else None
    if at is None:
        return 0, 0, payload.removesuffix(b"\n")
    return *at, line.removesuffix(b"\n")


def _time(stamp: bytes) -> tuple[int, int] | None:
    """``2026-01-01T00:00:00.123456789Z`` in seconds and nanoseconds; None if it is not one."""
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
    """Neighbouring lines have the same second, so that this is worked out seldom."""
    try:
        moment = datetime.datetime.fromisoformat(stamp.decode("ascii"))
        return int(moment.replace(tzinfo=datetime.UTC).timestamp())
    except ValueError:
        return None
