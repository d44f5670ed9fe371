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


def test_age_is_never_negative() -> None:
    assert text.since(Timestamp(seconds=2_000_000_000), datetime(2026, 1, 1, tzinfo=UTC)) == "0s"


def test_unset_time_is_empty() -> None:
    assert text.since(Timestamp(), datetime(2026, 1, 1, tzinfo=UTC)) == ""
    assert text.local_time(Timestamp()) == ""
    assert text.iso(Timestamp()) is None


@pytest.mark.parametrize(("value", "shown"), [(ServiceStatus.RUNNING, "running"), (0, "unknown"), (99, "unknown")])
def test_enum_values_in_words(value: int, shown: str) -> None:
    assert text.word(ServiceStatus.Phase, value) == shown


def test_columns_are_aligned_without_trailing_spaces() -> None:
    assert text.columns(("A", "LONG"), [["xxx", ""], ["y", "z"]]) == "A    LONG\nxxx\ny    z"
    assert text.columns(("A",), []) == "A"
    assert text.columns(("A", "B"), [["x\ny", "\x1b[2J"]]) == "A     B\nx\\ny  \\x1b[2J"


def test_plural() -> None:
    assert [text.plural(count, "node") for count in (0, 1, 2)] == ["0 nodes", "1 node", "2 nodes"]


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        ([], ""),
        (["n1"], "n1"),
        (["n1", "n2"], "n1, n2"),
        (["n3", "n1", "n2"], "n1\N{EN DASH}n3"),
        (["n1", "n2", "n4", "n5", "n6", "n9"], "n1, n2, n4\N{EN DASH}n6, n9"),
        (["n8", "n9", "n10", "n11"], "n8\N{EN DASH}n11"),
        (["n098", "n099", "n100", "n101"], "n098\N{EN DASH}n101"),
        # Written in two ways: not the same row of names.
        (["n08", "n09", "n10", "n9"], "n08, n09, n9, n10"),
        (["a1", "a2", "b3"], "a1, a2, b3"),
        (["web-a", "web-b", "web-c"], "web-a, web-b, web-c"),
        (["h1-1", "h1-2", "h1-3", "h2-1"], "h1-1\N{EN DASH}h1-3, h2-1"),
        (["7", "8", "9"], "7\N{EN DASH}9"),
    ],
)
def test_consecutive_names_become_a_range(names: list[str], shown: str) -> None:
    assert text.collapse_ranges(names) == shown


def test_long_lists_are_shortened_with_a_count() -> None:
    names = [f"n{number}" for number in range(1, 100, 2)]
    assert text.collapse_ranges(names, 22) == "n1, n3, n5 and 47 more"
    assert len(text.collapse_ranges(names, 30)) <= 30
    # Whatever the room, one is named.
    assert text.collapse_ranges(["a-very-long-name", "b"], 3) == "a-very-long-name and 1 more"
    assert text.collapse_ranges(["n1", "n2", "n3", "x"], 8) == "n1\N{EN DASH}n3, x"
