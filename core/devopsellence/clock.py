"""Clock readings: a monotonic clock for intervals, a wall clock for people and for records."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True)
class Now:
    """A point in time on both clocks.

    ``mono`` (monotonic seconds of this machine) measures intervals. ``wall`` (seconds since the epoch) is written down
    and shown; wall clocks of two machines are never compared.
    """

    mono: float
    wall: float

    @property
    def utc(self) -> datetime:
        """Return ``wall`` as a datetime in UTC."""
        return datetime.fromtimestamp(self.wall, UTC)


def now() -> Now:
    """Read both clocks."""
    return Now(time.monotonic(), time.time())
