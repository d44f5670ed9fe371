"""Parser of the engine's output stream: frames with stdout or stderr, and log entries. Pure.

Without a terminal the engine multiplexes stdout and stderr into frames: stream number, size and payload (Engine API,
"Attach to a container", stream format). A frame of a log holds exactly one entry: a line, or a piece of a long line.
"""

from __future__ import annotations

import datetime
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, NamedTuple

#: Number of the stdout stream; higher numbers are stderr and, as a third stream, the engine's own errors.
STDOUT: Final = 1
_HEADER: Final = struct.Struct(">BxxxL")
#: Upper limit for a frame: the engine's buffers have 32 KiB, a log entry 16 KiB.
MAX_FRAME_BYTES: Final = 1 << 20
#: Size of the pieces into which the engine splits a longer line.
PIECE_BYTES: Final = 16 * 1024
#: Limit of a joined line; a longer one continues as the next line.
MAX_LINE_BYTES: Final = 256 * 1024
#: Longest continuation of a UTF-8 character after its first byte.
_CONTINUATION_BYTES: Final = 3
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


def last_frames(chunks: Iterable[bytes], limit: int, edit: Callable[[bytes], bytes] = bytes) -> bytes:
    """Return the last whole frames of a stream, at most ``limit`` bytes; ``edit`` returns the payload to keep of each.

    Raises:
        MalformedFrame: as :meth:`FrameParser.feed`.
    """
    parser, size = FrameParser(), 0
    frames: deque[bytes] = deque()
    for chunk in chunks:
        for stderr, whole in parser.feed(chunk):
            payload = edit(whole)
            frames.append(_HEADER.pack(STDOUT + stderr, len(payload)) + payload)
            size += len(frames[-1])
            while size > limit:
                size -= len(frames.popleft())
    return b"".join(frames)


def log_entry(payload: bytes) -> tuple[int, int, bytes]:
    """Return seconds and nanoseconds of a log entry, and the line without its newline.

    Both numbers are 0 for an entry without a time (the engine's own message about an unreadable log).
    """
    stamp, space, line = payload.partition(b" ")
    at = _time(stamp) if space else None
    if at is None:
        return 0, 0, payload.removesuffix(b"\n")
    return *at, line.removesuffix(b"\n")


class LogText(NamedTuple):
    """Line of a log. ``at``: seconds and nanoseconds, zeros if unknown. ``text`` has no line end."""

    stderr: bool
    at: tuple[int, int]
    text: bytes


@dataclass(slots=True)
class LineJoiner:
    """Joiner of the entries of one log to lines.

    The pieces of a long line are entries with the same time, interleaved with the other stream. Each but the last is
    full. The last ends with a newline; at the end of the output, and with the log driver "local", without.
    """

    limit: int = MAX_LINE_BYTES
    _unfinished: dict[bool, LogText] = field(default_factory=dict)

    def feed(self, stderr: bool, payload: bytes) -> Iterable[LogText]:
        """Add an entry and return the lines that end with it."""
        seconds, nanos, piece = log_entry(payload)
        if not self._unfinished and len(piece) < PIECE_BYTES:
            # Nearly every entry of a log.
            return (LogText(stderr, (seconds, nanos), piece),)
        return self._join(stderr, payload, (seconds, nanos), piece)

    def _join(self, stderr: bool, payload: bytes, at: tuple[int, int], piece: bytes) -> Iterator[LogText]:
        text = piece
        if (before := self._unfinished.pop(stderr, None)) is not None:
            if before.at == at:
                text = before.text + piece
            else:
                # The output ended, and began again.
                yield before
        while len(text) > self.limit:
            end = _character_end(text, self.limit)
            yield LogText(stderr, at, text[:end])
            text = text[end:]
        line = LogText(stderr, at, text)
        if len(piece) < PIECE_BYTES or payload.endswith(b"\n"):
            yield line
        else:
            self._unfinished[stderr] = line

    def finish(self) -> list[LogText]:
        """Return and forget the lines still without an end."""
        lines = sorted(self._unfinished.values(), key=lambda line: line.at)
        self._unfinished.clear()
        return lines


def count_lines(entries: Iterable[tuple[bool, bytes]]) -> tuple[int, int]:
    """Return the numbers of entries and of joined lines."""
    joiner, seen, lines = LineJoiner(), 0, 0
    for stderr, payload in entries:
        seen += 1
        lines += sum(1 for _ in joiner.feed(stderr, payload))
    return seen, lines + len(joiner.finish())


def _character_end(text: bytes, limit: int) -> int:
    """Return the greatest position up to ``limit`` that is not inside a UTF-8 character; ``limit`` for other text."""
    for end in range(limit, max(0, limit - _CONTINUATION_BYTES - 1), -1):
        if text[end] & 0xC0 != 0x80:
            return end
    return limit


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
