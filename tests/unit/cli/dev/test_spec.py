"""Files between the commands and the supervisor."""

from __future__ import annotations

from pathlib import Path

import pytest

from devopsellence.cli.dev.process import ProcessIdentity
from devopsellence.cli.dev.spec import (
    RUNNING,
    STOPPED,
    ProcessReport,
    ProcessSpec,
    SupervisorSnapshot,
    read_snapshot,
    read_specs,
    write_snapshot,
    write_specs,
)


def test_processes_are_read_back_unchanged(tmp_path: Path) -> None:
    specs = (ProcessSpec("etcd", ("etcd", "--name=local"), {"HOME": "/root"}, 10, "stamp"),)
    write_specs(tmp_path / "processes.json", specs)
    assert read_specs(tmp_path / "processes.json") == specs


def test_invalid_processes_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "processes.json").write_text('[{"name": "etcd"}]')
    with pytest.raises(ValueError, match="is not a list of processes"):
        read_specs(tmp_path / "processes.json")


def test_snapshot_is_read_back_unchanged(tmp_path: Path) -> None:
    report = ProcessReport("agent", RUNNING, pid=7, started="boot:42", last_lines=("no Docker",))
    snapshot = SupervisorSnapshot(ProcessIdentity(1, "boot:1"), 5.0, (report,))
    write_snapshot(tmp_path / "snapshot.json", snapshot)
    assert read_snapshot(tmp_path / "snapshot.json") == snapshot
    assert snapshot.process("etcd").phase == STOPPED


def test_unreadable_snapshot_is_none(tmp_path: Path) -> None:
    assert read_snapshot(tmp_path / "snapshot.json") is None
    (tmp_path / "snapshot.json").write_text("{}")
    assert read_snapshot(tmp_path / "snapshot.json") is None
