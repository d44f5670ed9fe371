"""Files of the audit trail: appended, cut by a crash, removed."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from devopsellence.controller.gateway.audit.day_files import DayFiles

DAY, NEXT = date(2026, 11, 28), date(2026, 11, 29)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "audit"


def made(folder: Path, *, days: int = 90, max_bytes: int = 800) -> DayFiles:
    return DayFiles(folder, "gateway", days, max_bytes)


def content(files: DayFiles) -> list[bytes]:
    return [line for file in files.files() for chunk in files.lines(file, 2) for line in chunk]


def test_lines_are_appended_privately_by_day(folder: Path) -> None:
    files = made(folder)
    assert files.files() == []
    files.append([b"one", b"two"], DAY)
    files.append([b"three"], DAY)
    files.append([b"four"], NEXT)
    assert sorted(path.name for path in folder.iterdir()) == [
        "gateway-2026-11-28.0001.jsonl",
        "gateway-2026-11-29.0001.jsonl",
    ]
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700
    assert content(files) == [b"one\n", b"two\n", b"three\n", b"four\n"]


def test_restart_goes_on_behind_a_line_that_a_crash_has_cut(folder: Path) -> None:
    made(folder).append([b"one"], DAY)
    path = next(folder.iterdir())
    path.write_bytes(path.read_bytes() + b"cut")
    made(folder).append([b"two"], DAY)
    assert content(made(folder)) == [b"one\n", b"cut\n", b"two\n"]


def test_full_file_is_followed_by_another_and_the_oldest_go(folder: Path) -> None:
    files = made(folder)
    removals = [files.append([bytes([65 + number]) * 99], DAY) for number in range(10)]
    # Each is as large as a part; one part's room is kept for the next.
    assert [removal is not None for removal in removals] == [False] * 8 + [True] * 2
    assert all(removal.for_space for removal in removals if removal)
    assert content(files)[0].startswith(b"C")
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 800


def test_old_days_go_when_a_day_begins(folder: Path) -> None:
    files = made(folder, days=1)
    files.append([b"old"], date(2026, 11, 1))
    removed = files.append([b"new"], NEXT)
    assert removed is None, "the newest file stays until there is another"
    removed = files.append([b"newer"], date(2026, 11, 30))
    assert removed is not None
    assert not removed.for_space
    assert content(files) == [b"new\n", b"newer\n"]


def test_reader_sees_the_file_as_it_was(folder: Path) -> None:
    files = made(folder)
    files.append([b"one"], DAY)
    (before,) = files.files()
    files.append([b"two"], DAY)
    assert list(files.lines(before, 10)) == [[b"one\n"]]
    next(folder.iterdir()).unlink()
    assert list(files.lines(before, 10)) == []


def test_folder_that_cannot_be_written_is_an_error_and_no_loss(folder: Path) -> None:
    files = made(folder)
    folder.write_text("in the way")
    with pytest.raises(OSError, match="Not a directory"):
        files.append([b"one"], DAY)
    assert files.files() == []
    folder.unlink()
    files.append([b"one"], DAY)
    assert content(files) == [b"one\n"]
