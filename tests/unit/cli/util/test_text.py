from __future__ import annotations

from datetime import UTC, datetime

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from devopsellence.api.v1.stored_pb2 import ServiceStatus
from devopsellence.cli.util import text


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-5, "0s"),
        (0, "0s"),
        (0.9, "0s"),
        (59, "59s"),
        (60, "1m"),
        (200, "3m20s"),
        (599, "9m59s"),
        (600, "10m"),
        (3600, "1h"),
        (7260, "2h1m"),
        (36000, "10h"),
        (86400 * 2 + 3600, "2d1h"),
        (86400 * 400, "400d"),
    ],
)
def test_age(seconds: float, shown: str) -> None:
    assert text.age(seconds) == shown


@pytest.mark.parametrize(("seconds", "shown"), [(0.04, "0.0s"), (4.25, "4.2s"), (10, "10s"), (61, "1m1s")])
def test_span(seconds: float, shown: str) -> None:
    assert text.span(seconds) == shown


def test_a_clock_that_is_ahead_makes_no_negative_age() -> None:
    assert text.since(Timestamp(seconds=2_000_000_000), datetime(2026, 1, 1, tzinfo=UTC)) == "0s"


def test_a_time_that_is_not_set_is_nothing() -> None:
    assert text.since(Timestamp(), datetime(2026, 1, 1, tzinfo=UTC)) == ""
    assert text.local_time(Timestamp()) == ""
    assert text.iso(Timestamp()) is None


@pytest.mark.parametrize(("value", "shown"), [(ServiceStatus.RUNNING, "running"), (0, "unknown"), (99, "unknown")])
def test_enums_in_words_also_those_of_a_later_version(value: int, shown: str) -> None:
    assert text.word(ServiceStatus.Phase, value) == shown


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("plain äöü 日本\ttab", "plain äöü 日本\ttab"),
        ("\x1b[2Jgone", "\N{REPLACEMENT CHARACTER}[2Jgone"),
        ("a\r\nb", "a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}b"),
        ("\x9b31m", "\N{REPLACEMENT CHARACTER}31m"),
        ("right\N{RIGHT-TO-LEFT OVERRIDE}left", "right\N{REPLACEMENT CHARACTER}left"),
    ],
)
def test_text_from_elsewhere_cannot_move_the_cursor(given: str, shown: str) -> None:
    assert text.safe(given) == shown


def test_columns_are_aligned_and_no_line_ends_with_a_space() -> None:
    assert text.columns(("A", "LONG"), [["xxx", ""], ["y", "z"]]) == "A    LONG\nxxx\ny    z"
    assert text.columns(("A",), []) == "A"


def test_plural() -> None:
    assert [text.plural(count, "node") for count in (0, 1, 2)] == ["0 nodes", "1 node", "2 nodes"]
