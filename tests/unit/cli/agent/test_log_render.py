from __future__ import annotations

import json

import pytest

from devopsellence.cli.agent.log_line import NANOS, OutputLine
from devopsellence.cli.agent.log_render import JsonRenderer, TextRenderer, on_terminal, rfc3339

PAIRS = [("n1", "web"), ("n1", "redis"), ("node-2", "web")]


def line(text: bytes, node: str = "n1", service: str = "web") -> OutputLine:
    return OutputLine(node, service, "0123456789ab", False, 1_700_000_000 * NANOS + 5, text)


def text(*, prefix: bool = True, terminal: bool = False, color: bool = False, timestamps: bool = False) -> TextRenderer:
    return TextRenderer(PAIRS, prefix=prefix, terminal=terminal, color=color, timestamps=timestamps)


def test_prefixes_are_aligned_from_the_first_line_on() -> None:
    render = text()
    assert render(line(b"a")).decode() == "n1/web     │ a\n"
    assert render(line(b"a", "node-2")).decode() == "node-2/web │ a\n"


def test_unexpected_source_widens_later_prefixes() -> None:
    render = text()
    assert render(line(b"a", "a-long-name")).decode() == "a-long-name/web │ a\n"


def test_sources_have_different_colours() -> None:
    render = text(color=True, terminal=True)
    prefixes = {render(line(b"a", *pair)).split(b"m", 1)[0] for pair in PAIRS}
    assert len(prefixes) == len(PAIRS)


def test_timestamp_precedes_the_line() -> None:
    assert text(prefix=False, timestamps=True)(line(b"a")) == b"2023-11-14T22:13:20.000000005Z a\n"


@pytest.mark.parametrize(
    ("raw", "plain", "coloured"),
    [
        (b"plain", "plain", "plain"),
        ("größer €".encode(), "größer €", "größer €"),
        (b"tab\there", "tab\there", "tab\there"),
        (b"windows\r", "windows", "windows"),
        (b"\x1b[31mred\x1b[0m", "red", "\x1b[31mred\x1b[0m\x1b[0m"),
        (b"\x1b[2J\x1b[H", "\\x1b[2J\\x1b[H", "\\x1b[2J\\x1b[H"),
        (b"\x1b]0;title\x07", "\\x1b]0;title\\x07", "\\x1b]0;title\\x07"),
        (b"over\rwritten", "over\\rwritten", "over\\rwritten"),
        (b"\xff\xfe", "\ufffd\ufffd", "\ufffd\ufffd"),
        ("\u202eright to left".encode(), "\\u202eright to left", "\\u202eright to left"),
        (b"", "", ""),
    ],
)
def test_terminal_gets_no_control_codes_but_colours(raw: bytes, plain: str, coloured: str) -> None:
    assert on_terminal(raw, color=False).decode() == plain
    assert on_terminal(raw, color=True).decode() == coloured


def test_pipe_gets_unchanged_bytes() -> None:
    assert text(prefix=False)(line(b"\x1b[2J\xff\r")) == b"\x1b[2J\xff\r\n"


def test_json_is_a_single_line() -> None:
    document = JsonRenderer("logs")(line(b"a\n\xff\x1b"))
    assert document.count(b"\n") == 1
    assert json.loads(document)["line"] == "a\n\ufffd\x1b"


def test_times_have_nine_digits() -> None:
    assert rfc3339(1) == "1970-01-01T00:00:00.000000001Z"
