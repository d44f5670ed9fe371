"""How much room a heartbeat tells of: about right, and seldom something new."""

from __future__ import annotations

import pytest

from devopsellence.api.v1.stored_pb2 import DiskSpace
from devopsellence.nodeagent.status.disk import disk_space, rounded

TOTAL = 100_000


def seen(free: int, total: int = TOTAL) -> DiskSpace:
    return DiskSpace(total_mib=total, free_mib=free)


@pytest.mark.parametrize(
    ("told", "free", "tells"),
    [
        (DiskSpace(), 43_000, 40_000),
        (seen(40_000), 43_000, 40_000),
        (seen(40_000), 37_500, 40_000),
        (seen(40_000), 37_499, 35_000),
        (seen(40_000), 47_499, 40_000),
        (seen(40_000), 47_500, 45_000),
        (seen(40_000), 0, 0),
        (seen(0), 99_999, 95_000),
        (seen(40_000, total=50_000), 43_000, 40_000),
    ],
)
def test_free_space_is_rounded_to_twentieths(told: DiskSpace, free: int, tells: int) -> None:
    assert rounded(told, seen(free)) == seen(tells)


def test_small_fluctuations_are_reported_once() -> None:
    told = rounded(DiskSpace(), seen(45_100))
    for free in (44_900, 45_100, 43_000, 46_000, 44_900, 51_000, 45_000):
        again = rounded(told, seen(free))
        assert again is told


@pytest.mark.parametrize("total", [0, 1, 7])
def test_the_smallest_disks_are_told_of(total: int) -> None:
    assert rounded(DiskSpace(), seen(total, total)).free_mib <= total


def test_this_machines_root_has_room() -> None:
    here = disk_space("/")
    assert 0 < here.free_mib <= here.total_mib
    with pytest.raises(OSError, match="No such file"):
        disk_space("/nonexistent")
