"""Identity of processes by pid, start time and boot."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from devopsellence.cli.dev.process import ProcessIdentity, identify, read_pid_file


def test_own_process_is_alive() -> None:
    process = identify(os.getpid())
    assert process is not None
    assert process.alive


def test_process_with_another_start_time_is_not_alive() -> None:
    process = identify(os.getpid())
    assert process is not None
    former = replace(process, started="boot:1")
    assert not former.alive
    assert former.wait_gone(0)


def test_pid_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "supervisor.pid"
    path.write_text("7 boot:42\n")
    assert read_pid_file(path) == ProcessIdentity(7, "boot:42")


def test_missing_or_invalid_pid_file_is_none(tmp_path: Path) -> None:
    path = tmp_path / "supervisor.pid"
    assert read_pid_file(path) is None
    path.write_text("seven\n")
    assert read_pid_file(path) is None
