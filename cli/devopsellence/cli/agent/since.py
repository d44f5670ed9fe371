"""Parser of ``--since``: a duration before now, or a point in time."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from devopsellence.cli.agent.log_line import NANOS

_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SPAN: Final = re.compile(rf"(?:{_PART.pattern})+")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def parse_since(text: str, now: datetime) -> int:
    """Return ``text`` in nanoseconds since 1970: ``5m`` or ``1h30m`` before ``now``, or a time as in RFC 3339.

    A time without an offset is local time.

    Raises:
        ValueError: neither a duration nor a time.
    """
    if _SPAN.fullmatch(text):
        seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
        return max(0, _nanos(now) - int(seconds * NANOS))
    try:
        moment = datetime.fromisoformat(text)
        return max(0, _nanos(moment.astimezone(UTC)))
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{text!r} is neither a duration such as 5m nor a time in RFC 3339") from error


def _nanos(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000
