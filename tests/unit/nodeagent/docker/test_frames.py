"""Parsing of output frames and log entries."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devopsellence.nodeagent.docker.frames import MAX_FRAME_BYTES, FrameParser, MalformedFrame, log_entry


def frame(stream: int, payload: bytes) -> bytes:
    return struct.pack(">BxxxL", stream, len(payload)) + payload


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=40)), max_size=8), st.data())
def test_frames_are_parsed_from_pieces_of_any_size(sent: list[tuple[int, bytes]], data: st.DataObject) -> None:
    wire = b"".join(frame(stream, payload) for stream, payload in sent)
    parser, parsed, position = FrameParser(), [], 0
    while position < len(wire):
        step = data.draw(st.integers(1, 20))
        parsed += list(parser.feed(wire[position : position + step]))
        position += step
    assert parsed == [(stream == 2, payload) for stream, payload in sent if payload]


def test_engine_messages_count_as_stderr() -> None:
    assert list(FrameParser().feed(frame(3, b"Error grabbing logs"))) == [(True, b"Error grabbing logs")]


def test_oversized_frame_is_malformed() -> None:
    with pytest.raises(MalformedFrame):
        list(FrameParser().feed(struct.pack(">BxxxL", 1, MAX_FRAME_BYTES + 1)))


@pytest.mark.parametrize(
    ("payload", "entry"),
    [
        (b"2026-01-01T00:00:01.5Z a b\n", (1767225601, 500_000_000, b"a b")),
        (b"2026-01-01T00:00:00Z x", (1767225600, 0, b"x")),
        (b"2026-01-01T00:00:00.123456789Z \n", (1767225600, 123456789, b"")),
        (b"2026-01-01T00:00:00.000000001Z \xff\x00\r\n", (1767225600, 1, b"\xff\x00\r")),
        (b"Error grabbing logs: EOF", (0, 0, b"Error grabbing logs: EOF")),
        (b"2026-01-01T00:00:00.1234567890Z x", (0, 0, b"2026-01-01T00:00:00.1234567890Z x")),
        (b"2026-01-01T00:00:00.xZ x", (0, 0, b"2026-01-01T00:00:00.xZ x")),
        (b"2026-01-01T00:00:00", (0, 0, b"2026-01-01T00:00:00")),
        (b"", (0, 0, b"")),
    ],
)
def test_log_entry_is_split_into_time_and_line(payload: bytes, entry: tuple[int, int, bytes]) -> None:
    assert log_entry(payload) == entry
