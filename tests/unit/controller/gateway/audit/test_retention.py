"""Which files of the audit trail go, and when."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from devopsellence.controller.gateway.audit.retention import AuditFile, day_of, largest_part, parse_name, removal

TODAY = date(2026, 11, 29)


def file(days_ago: int, part: int = 1, size: int = 10) -> AuditFile:
    return AuditFile(TODAY - timedelta(days=days_ago), part, size)


@pytest.mark.parametrize(
    ("files", "going", "for_space"),
    [
        ([], [], False),
        ([file(0)], [], False),
        ([file(90), file(0)], [], False),
        ([file(91), file(90), file(0)], [file(91)], False),
        # The newest stays, however old and large.
        ([file(400)], [], False),
        ([file(0, size=1000)], [], False),
        ([file(2, size=60), file(1, size=60)], [file(2, size=60)], True),
        ([file(0, 1, 50), file(0, 2, 50), file(0, 3, 50)], [file(0, 1, 50)], True),
        ([file(91, size=60), file(1, size=60)], [file(91, size=60)], False),
    ],
)
def test_removal_by_age_and_size(files: list[AuditFile], going: list[AuditFile], for_space: bool) -> None:
    found = removal(reversed(files), TODAY, 90, 100)
    assert (list(found.files), found.for_space) == (going, for_space)


def test_names_are_read_back_and_other_files_are_left_alone() -> None:
    assert parse_name("gateway", file(0, 12).name("gateway"), 10) == file(0, 12)
    others = ("nodes-2026-11-29.0001.jsonl", "gateway-2026-13-29.0001.jsonl", "gateway.jsonl", "lost+found")
    assert [parse_name("gateway", name, 1) for name in others] == [None] * 4


def test_part_is_a_share_of_the_space() -> None:
    assert (largest_part(80), largest_part(1 << 40)) == (10, 8 << 20)
    assert day_of(0.0) == date(1970, 1, 1)
