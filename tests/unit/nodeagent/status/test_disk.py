"""Disk space in the heartbeat: rounded, and seldom changing."""

from __future__ import annotations

import pytest

from devopsellence.api.v1.stored_pb2 import DiskSpace
from devopsellence.nodeagent.status.disk import disk_space, rounded

TOTAL = 100_000


def disk(free: int, total: int = TOTAL) -> DiskSpace:
    return DiskSpace(total_mib=total, free_mib=free)


@pytest.mark.parametrize(
    ("reported", "free", "expected"),
    [
        (DiskSpace(), 43_000, 40_000),
        (disk(40_000), 43_000, 40_000),
        (disk(40_000), 37_500, 40_000),
        (disk(40_000), 37_499, 35_000),
        (disk(40_000), 47_499, 40_000),
        (disk(40_000), 47_500, 45_000),
        (disk(40_000), 0, 0),
        (disk(0), 99_999, 95_000),
        (disk(40_000, total=50_000), 43_000, 40_000),
    ],
)
def test_free_space_is_rounded_to_twentieths(reported: DiskSpace, free: int, expected: int) -> None:
    assert rounded(reported, disk(free)) == disk(expected)


def test_small_fluctuations_are_reported_once() -> None:
    reported = rounded(DiskSpace(), disk(45_100))
    for free in (44_900, 45_100, 43_000, 46_000, 44_900, 51_000, 45_000):
        again = rounded(reported, disk(free))
        assert again is reported


@pytest.mark.parametrize("total", [0, 1, 7])
def test_tiny_disk_is_reported(total: int) -> None:
    assert rounded(DiskSpace(), disk(total, total)).free_mib <= total


def test_disk_space_of_this_machine() -> None:
    root = disk_space("/")
    assert 0 < root.free_mib <= root.total_mib
    with pytest.raises(OSError, match="No such file"):
        disk_space("/nonexistent")
