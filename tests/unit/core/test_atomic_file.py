"""Atomic replacement of files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

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


def test_file_of_the_same_user_is_replaced_where_owners_cannot_be_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The units of agent and controller forbid the system call, with ``SystemCallFilter=``."""

    def forbidden(*_: object) -> NoReturn:
        raise PermissionError

    monkeypatch.setattr(os, "fchown", forbidden)
    path = tmp_path / "tls.key"
    path.write_text("old")
    write_atomic(path, b"new", keep_owner=True)
    assert path.read_bytes() == b"new"
