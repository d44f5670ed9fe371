from __future__ import annotations

from datetime import UTC, datetime

import pytest

from devopsellence.cli.agent import since
from devopsellence.cli.agent.log_line import NANOS

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
AT = int(NOW.timestamp())


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5m", AT - 300),
        ("1h30m", AT - 5400),
        ("2d", AT - 172_800),
        ("0s", AT),
        ("1.5h", AT - 5400),
        ("90000d", 0),
        ("2024-05-01T10:00:00Z", AT - 7200),
        ("2024-05-01T12:00:00+02:00", AT - 7200),
    ],
)
def test_durations_and_times_are_parsed(text: str, seconds: int) -> None:
    assert since.parse_since(text, NOW) == seconds * NANOS


def test_fractions_of_a_second_count() -> None:
    assert since.parse_since("500ms", NOW) == AT * NANOS - NANOS // 2
    assert since.parse_since("1970-01-01T00:00:00.25Z", NOW) == NANOS // 4


@pytest.mark.parametrize(
    "text", ["", "5", "m", "5 m", "5m ago", "yesterday", "-5m", "2024-13-01", "99999-01-01T00:00:00Z"]
)
def test_invalid_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="neither a duration"):
        since.parse_since(text, NOW)
