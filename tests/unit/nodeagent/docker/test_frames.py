"""Parsing of output frames and log entries."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devopsellence.nodeagent.docker.frames import (
    MAX_FRAME_BYTES,
    PIECE_BYTES,
    FrameParser,
    LineJoiner,
    LogText,
    MalformedFrame,
    count_lines,
    last_frames,
    log_entry,
)


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


def pieces(line: bytes, second: int, *, newline: bool = True) -> list[bytes]:
    """Return the entries of a line as the engine stores them; without ``newline`` as with the log driver "local"."""
    stamp = f"2026-01-01T00:00:{second:02}Z ".encode()
    text = line + b"\n" if newline else line
    cut = range(0, len(text) or 1, PIECE_BYTES)
    entries = [stamp + text[at : at + PIECE_BYTES] for at in cut]
    # The driver "local" marks the end of a line of full pieces by an empty entry.
    return entries if newline or len(line) % PIECE_BYTES or not line else [*entries, stamp]


def joined(entries: list[tuple[bool, bytes]], limit: int = 1 << 20) -> list[tuple[bool, bytes]]:
    joiner = LineJoiner(limit)
    lines = [line for stderr, payload in entries for line in joiner.feed(stderr, payload)]
    return [(line.stderr, line.text) for line in [*lines, *joiner.finish()]]


SIZES = [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 2 * PIECE_BYTES - 1, 2 * PIECE_BYTES, 40_000]


@pytest.mark.parametrize("newline", [True, False], ids=["json-file", "local"])
def test_pieces_of_long_lines_are_joined_at_every_size(newline: bool) -> None:
    lines = [bytes([65 + at]) * size for at, size in enumerate(SIZES)]
    entries = [(False, entry) for at, line in enumerate(lines) for entry in pieces(line, at, newline=newline)]
    assert joined(entries) == [(False, line) for line in lines]
    assert count_lines(entries) == (len(entries), len(lines))


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(SIZES)), max_size=6), st.data())
def test_lines_are_joined_in_any_interleaving_of_the_streams(said: list[tuple[bool, int]], data: st.DataObject) -> None:
    lines = [(stderr, bytes([65 + at]) * size) for at, (stderr, size) in enumerate(said)]
    waiting = {
        side: [entry for at, (stderr, line) in enumerate(lines) if stderr == side for entry in pieces(line, at)]
        for side in (False, True)
    }
    entries: list[tuple[bool, bytes]] = []
    while sides := [side for side, left in waiting.items() if left]:
        side = data.draw(st.sampled_from(sides))
        entries.append((side, waiting[side].pop(0)))
    for side in (False, True):
        assert [line for line in joined(entries) if line[0] == side] == [line for line in lines if line[0] == side]


def test_character_between_two_pieces_is_whole() -> None:
    line = "日".encode() * 10_000
    assert joined([(False, entry) for entry in pieces(line, 0)]) == [(False, line)]


def test_last_full_piece_without_newline_is_a_line_when_the_log_ends_or_the_output_begins_again() -> None:
    cut = pieces(b"x" * PIECE_BYTES, 0)[0]
    assert joined([(False, cut)]) == [(False, b"x" * PIECE_BYTES)]
    assert joined([(False, cut), (False, pieces(b"new", 1)[0])]) == [(False, b"x" * PIECE_BYTES), (False, b"new")]


def test_line_waits_only_while_its_last_piece_is_full() -> None:
    joiner = LineJoiner()
    first, second = pieces(b"x" * (PIECE_BYTES + 5), 0)
    assert list(joiner.feed(False, first)) == []
    assert list(joiner.feed(False, second)) == [LogText(False, (1767225600, 0), b"x" * (PIECE_BYTES + 5))]
    assert joiner.finish() == []


@pytest.mark.parametrize("character", ["x", "é", "日", "🎉"])
def test_line_beyond_the_limit_continues_as_next_line_at_a_character(character: str) -> None:
    line = b"a" + character.encode() * 50_000
    lines = [text for _, text in joined([(False, entry) for entry in pieces(line, 0)], limit=20_000)]
    assert b"".join(lines) == line
    assert all(19_996 < len(text) <= 20_000 for text in lines[:-1])
    assert [text.decode() for text in lines]


def test_binary_line_beyond_the_limit_is_cut_at_the_limit() -> None:
    lines = [text for _, text in joined([(False, entry) for entry in pieces(b"\x80" * 50_000, 0)], limit=20_000)]
    assert [len(text) for text in lines] == [20_000, 20_000, 10_000]


def test_last_frames_are_edited_before_they_count() -> None:
    frames = frame(1, b"a secret") + frame(2, b"b secret")
    edited = frame(1, b"a x") + frame(2, b"b x")
    assert last_frames([frames], len(edited), lambda payload: payload.replace(b"secret", b"x")) == edited


@pytest.mark.parametrize("limit", [0, 9, 10, 19, 20, 25, 100])
def test_last_frames_are_whole_and_bounded(limit: int) -> None:
    frames = [struct.pack(">BxxxL", 1 + number % 2, 2) + f"{number:02}".encode() for number in range(7)]
    stream = b"".join(frames)
    whole = len(frames) if limit >= len(stream) else limit // 10
    for size in (1, 3, 1000):
        chunks = [stream[start : start + size] for start in range(0, len(stream), size)]
        assert last_frames(chunks, limit) == b"".join(frames[len(frames) - whole :])
