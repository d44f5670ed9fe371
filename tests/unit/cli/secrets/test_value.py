"""Input and validation of a secret's value."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest

from devopsellence.age import MAX_BYTES
from devopsellence.cli.output import CliError, Output
from devopsellence.cli.secrets import value as values


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (b"value\n", b"value"),
        (b"value\r\n", b"value"),
        (b"value\n\n", b"value\n"),
        (b"value\r", b"value\r"),
        (b"value", b"value"),
        (b" two\nlines \n", b" two\nlines "),
        (b"\n", b""),
        (b"", b""),
    ],
)
def test_single_trailing_newline_is_removed(given: bytes, kept: bytes) -> None:
    assert values.without_line_end(given) == kept


@pytest.mark.parametrize("value", [b"v", b"x" * MAX_BYTES, "zażółć\n🔑".encode()])
def test_values_allowed_in_environment_variables_are_accepted(value: bytes) -> None:
    values.check(value, allow_empty=False)


@pytest.mark.parametrize("value", [b"", b"hunter2\0", b"hunter2\xff", b"hunter2" + b"x" * MAX_BYTES])
def test_invalid_value_is_refused_without_being_printed(value: bytes) -> None:
    with pytest.raises(CliError) as caught:
        values.check(value, allow_empty=False)
    assert (caught.value.code, caught.value.exit_code) == ("invalid_secret", 2)
    assert "hunter2" not in caught.value.text()
    assert caught.value.__context__ is None


def test_empty_value_needs_a_flag() -> None:
    values.check(b"", allow_empty=True)


def test_endless_stdin_is_read_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BytesIO(b"x" * (10 * MAX_BYTES))
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=stream, isatty=lambda: False))
    with pytest.raises(CliError, match="larger than 64 KiB"):
        values.obtain(Output(), stdin=True, argument=None, allow_empty=False)
    assert stream.tell() < 2 * MAX_BYTES


def test_largest_value_with_newline_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BytesIO(b"x" * MAX_BYTES + b"\r\n")
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=stream, isatty=lambda: False))
    assert values.obtain(Output(), stdin=True, argument=None, allow_empty=False) == b"x" * MAX_BYTES


def test_value_source_is_required_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"x"), isatty=lambda: False))
    with pytest.raises(CliError) as caught:
        values.obtain(Output(), stdin=False, argument=None, allow_empty=False)
    assert caught.value.code == "value_missing"
