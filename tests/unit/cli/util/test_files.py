"""The state folder, and atomic replacement of files."""

from __future__ import annotations

from pathlib import Path

import pytest

from devopsellence.cli.util.files import state_home, write_atomic


def test_state_home_follows_variables() -> None:
    assert state_home({"DEVOPSELLENCE_HOME": "/data", "XDG_STATE_HOME": "/state"}) == Path("/data")
    assert state_home({"XDG_STATE_HOME": "/state"}) == Path("/state/devopsellence")
    assert state_home({"XDG_STATE_HOME": "relative"}) == state_home({}) == Path.home() / ".local/state/devopsellence"


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
