"""Last lines for a status: bounded, harmless on a terminal, without secrets."""

from __future__ import annotations

import random
import unicodedata

import pytest

from devopsellence.nodeagent.docker import names
from devopsellence.nodeagent.docker.output import (
    MAX_BYTES,
    MAX_LINE_CHARACTERS,
    MAX_LINES,
    last_lines,
    secret_values,
)

PEM = "-----BEGIN KEY-----\nMIIEvQIBADANBgkq\nhkiG9w0BAQEFAASC\n-----END KEY-----\n"


@pytest.mark.parametrize(
    ("output", "lines"),
    [
        pytest.param(b"", (), id="nothing"),
        pytest.param(b"one\ntwo", ("one", "two"), id="last line without its end"),
        pytest.param(b"\x1b[31mred\x1b[0m \x1b]0;title\x07text\x1b(B\n", ("red text",), id="escape sequences"),
        pytest.param(b"a\x1b[", ("a",), id="escape sequence cut off"),
        pytest.param(b"\x1b]0;title without end\nwhy\n", ("", "why"), id="title without an end hides no line"),
        pytest.param(b"a\tb\x00\x08\x7fc\x9b\n", ("a\tbc\N{REPLACEMENT CHARACTER}",), id="control characters"),
        pytest.param("a\u202eb\u200bc\x9bd".encode(), ("abcd",), id="invisible formatting"),
        pytest.param(b"10%\r20%\r\ndone\n", ("10%", "20%", "done"), id="progress bar"),
        pytest.param(b"\xff\xfe", ("\N{REPLACEMENT CHARACTER}" * 2,), id="bytes that are no text"),
        pytest.param(b"a\n\n", ("a", ""), id="empty line"),
        pytest.param(b"x" * 501, ("x" * 499 + "…",), id="long line"),
    ],
)
def test_output_becomes_lines(output: bytes, lines: tuple[str, ...]) -> None:
    assert last_lines(output) == lines


@pytest.mark.parametrize(
    ("output", "secrets", "lines"),
    [
        pytest.param(b"password is hunter2!", ["hunter2"], ("password is [secret]!",), id="within a line"),
        pytest.param(b"pin 123", ["123"], ("pin 123",), id="too short to tell from other words"),
        pytest.param(b"ab abcd abcdefgh", ["abcd", "abcdefgh"], ("ab [secret] [secret]",), id="one within another"),
        pytest.param(PEM.encode(), [PEM], ("[secret]",), id="several lines"),
        pytest.param(
            b"log: MIIEvQIBADANBgkq\nlog: hkiG9w0BAQEFAASC",
            [PEM],
            ("log: [secret]", "log: [secret]"),
            id="several lines printed one by one",
        ),
        pytest.param(b"x" * 495 + b"hunter2", ["hunter2"], ("x" * 495 + "[sec…",), id="at the cut"),
        pytest.param(b"nothing", ["", " \n"], ("nothing",), id="empty secrets"),
    ],
)
def test_secrets_are_replaced(output: bytes, secrets: list[str], lines: tuple[str, ...]) -> None:
    assert last_lines(output, secrets) == lines


@pytest.mark.parametrize("seed", range(50))
def test_any_output_is_bounded_and_harmless(seed: int) -> None:
    chance = random.Random(seed)
    pieces = [b"\x1b[2J", b"\x1b", b"\n", b"\r", "ü".encode(), b"\xc3", b"a" * 900, "\u2028\u202e".encode(), b"s3cret"]
    output = b"".join(chance.choices(pieces, k=400)) + bytes(chance.choices(range(256), k=200))
    lines = last_lines(output, ["s3cret"])
    assert len(lines) <= MAX_LINES
    assert sum(len(line.encode()) + 1 for line in lines) <= MAX_BYTES
    for line in lines:
        assert len(line) <= MAX_LINE_CHARACTERS
        assert not any(unicodedata.category(char) in ("Cc", "Cf", "Cs") for char in line if char != "\t")
        assert "s3cret" not in line


def test_newest_lines_stay_within_the_limit_of_bytes() -> None:
    lines = last_lines("\n".join(f"{number} {'ü' * 250}" for number in range(20)).encode())
    assert lines[-1].startswith("19 ")
    assert len(lines) == 8


def test_container_names_its_own_secrets() -> None:
    config = {
        "Labels": {names.LABEL_SECRETS: "API_KEY,EMPTY,GONE,PASSWORD"},
        "Env": ["PASSWORD=a=b", "API_KEY=k", "EMPTY=", "PATH=/bin"],
    }
    assert secret_values({"Config": config}) == ["k", "a=b"]
    assert secret_values({"Config": {"Env": ["PASSWORD=x"]}}) == []
