"""Atomic replacement of files."""

from __future__ import annotations

from pathlib import Path

import pytest

from devopsellence.atomic_file import write_atomic


def test_file_is_replaced_with_mode(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_text("old")
    write_atomic(path, b"new", mode=0o600)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["key.pem"]


def test_failed_write_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        write_atomic(tmp_path / "folder", b"data")
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]
