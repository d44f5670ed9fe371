"""Parsers of numbers, durations and sizes; all raise :class:`scalars.Unfit` for invalid values."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Final

from devopsellence.config.scalars import Unfit, shown
from devopsellence.config.yaml_tree import Number

MAX_DURATION: Final = timedelta(days=7)
DEFAULT_PROGRESS_DEADLINE: Final = timedelta(minutes=10)
# Minimum of Docker.
MIN_MEMORY_MIB: Final = 6
MAX_MEMORY_MIB: Final = 64 << 20
MAX_CPUS: Final = 1024
_DURATION: Final = r"(?a)(?:(\d{1,9}(?:\.\d{1,9})?)(h|ms|m|s))"
_SECONDS: Final = {"h": Decimal(3600), "m": Decimal(60), "s": Decimal(1), "ms": Decimal("0.001")}
_MEMORY: Final = r"(?ai)(\d{1,9}(?:\.\d{1,9})?)([kmgt])i?b?\Z"
_MIB: Final = {"k": Decimal(1) / 1024, "m": Decimal(1), "g": Decimal(1 << 10), "t": Decimal(1 << 20)}
_CPUS: Final = r"(?a)(?:\d{1,4}(?:\.\d{0,9})?|\.\d{1,9})\Z"
_SHARE: Final = r"(?a)(\d{1,3})%\Z"
_COUNT: Final = r"(?a)\d{1,9}\Z"


def whole(low: int, high: int) -> Callable[[object], int]:
    """Return a parser of whole numbers from ``low`` to ``high``, written without quotes."""

    def check(value: object) -> int:
        if isinstance(value, Number) and re.match(_COUNT, value) and low <= int(value) <= high:
            return int(value)
        quotes = (
            "; remove the quotes"
            if not isinstance(value, Number) and isinstance(value, str) and re.match(_COUNT, value)
            else ""
        )
        raise Unfit(f"must be a whole number from {low} to {high}, not {shown(value)}{quotes}")

    return check


port = whole(1, 65535)


def duration(low: timedelta) -> Callable[[object], timedelta]:
    """Return a parser of durations such as ``5s``, ``1m30s`` or ``500ms``, from ``low`` to seven days."""

    def check(value: object) -> timedelta:
        result = _seconds(value)
        if result is None:
            unit = f"; write {value}s for seconds" if isinstance(value, Number) and re.match(_COUNT, value) else ""
            raise Unfit(f"must be a duration such as 5s, 1m30s or 500ms, not {shown(value)}{unit}")
        if not low <= result <= MAX_DURATION:
            raise Unfit(f"must be from {format_duration(low)} to {format_duration(MAX_DURATION)}, not {shown(value)}")
        return result

    return check


def _seconds(value: object) -> timedelta | None:
    if not isinstance(value, str) or len(value) > 64:
        return None
    parts = list(re.finditer(_DURATION, value))
    if not parts or "".join(part[0] for part in parts) != value:
        return None
    return timedelta(milliseconds=int(sum(Decimal(part[1]) * _SECONDS[part[2]] for part in parts) * 1000))


def format_duration(value: timedelta) -> str:
    """Format a duration in the shortest form: ``1m30s``; rounded to milliseconds."""
    rest = round(value.total_seconds() * 1000)
    written = ""
    for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, rest = divmod(rest, size)
        written += f"{count}{unit}" if count else ""
    return written or "0s"


def memory_mib(value: object) -> int:
    """Parse a size such as ``512m`` or ``1g`` to mebibytes (as in Compose, 1g is 1024m)."""
    match = re.match(_MEMORY, value) if isinstance(value, str) else None
    if match is None:
        unit = f"; write {value}m for mebibytes" if isinstance(value, Number) and re.match(_COUNT, value) else ""
        raise Unfit(f"must be a size such as 512m or 1g, not {shown(value)}{unit}")
    size = Decimal(match[1]) * _MIB[match[2].lower()]
    if not MIN_MEMORY_MIB <= size <= MAX_MEMORY_MIB:
        raise Unfit(f"must be from {MIN_MEMORY_MIB}m to {MAX_MEMORY_MIB >> 20}t, not {shown(value)}")
    if size != int(size):
        raise Unfit(f"must be a whole number of mebibytes, not {shown(value)}")
    return int(size)


def cpu_millis(value: object) -> int:
    """Parse a number of cores such as ``0.5`` to thousandths of a core; quotes are allowed, as in Compose."""
    if not isinstance(value, str) or not re.match(_CPUS, value):
        raise Unfit(f"must be a number of cores such as 0.5 or 2, not {shown(value)}")
    millis = Decimal(value) * 1000
    if not 1 <= millis <= MAX_CPUS * 1000:
        raise Unfit(f"must be from 0.001 to {MAX_CPUS} cores, not {shown(value)}")
    return int(millis)


def max_parallel(value: object) -> str:
    """Parse a number of nodes from 1, or a percentage from ``1%`` to ``100%``; returned as text."""
    written = str(value) if isinstance(value, str) else ""
    share = re.match(_SHARE, written)
    if share and 1 <= int(share[1]) <= 100:
        return f"{int(share[1])}%"
    if re.match(_COUNT, written) and int(written) >= 1:
        return str(int(written))
    raise Unfit(f"must be a number of nodes such as 2, or a percentage such as 25%, not {shown(value)}")
