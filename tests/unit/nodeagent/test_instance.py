"""Ids of agent processes in the state folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from devopsellence.nodeagent.instance import INSTANCES_FILE, new_process
from devopsellence.nodeagent.state_files import StateFiles


def test_process_knows_the_earlier_processes_of_its_folder(tmp_path: Path) -> None:
    first, second, third = (new_process(StateFiles(tmp_path)) for _ in range(3))
    assert first.former == frozenset()
    assert second.former == {first.instance}
    assert third.former == {first.instance, second.instance}
    again = new_process(StateFiles(tmp_path / ".." / tmp_path.name))
    assert again.former == {first.instance, second.instance, third.instance}


def test_file_of_ids_stays_small(tmp_path: Path) -> None:
    for _ in range(50):
        last = new_process(StateFiles(tmp_path))
    assert len((tmp_path / INSTANCES_FILE).read_text().split()) == 22
    assert len(last.former) == 20


def test_processes_before_the_last_boot_may_run_on_another_machine(tmp_path: Path) -> None:
    boot = tmp_path / "boot_id"
    boot.write_text("one\n")
    first = new_process(StateFiles(tmp_path), boot)
    boot.write_text("two\n")
    clone = new_process(StateFiles(tmp_path), boot)
    assert clone.former == frozenset()
    assert new_process(StateFiles(tmp_path), boot).former == {clone.instance}
    assert first.instance not in new_process(StateFiles(tmp_path), boot).former


def test_system_without_boot_ids_counts_as_booted_once(tmp_path: Path) -> None:
    first = new_process(StateFiles(tmp_path), tmp_path / "missing")
    assert new_process(StateFiles(tmp_path), tmp_path / "missing").former == {first.instance}


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"\n\n"])
def test_unreadable_file_of_ids_is_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / INSTANCES_FILE).write_bytes(content)
    process = new_process(StateFiles(tmp_path))
    assert process.former == frozenset()
    assert new_process(StateFiles(tmp_path)).former == {process.instance}


def test_folder_that_cannot_be_written_gives_an_id_all_the_same(tmp_path: Path) -> None:
    (tmp_path / INSTANCES_FILE).mkdir()
    assert new_process(StateFiles(tmp_path)).instance != new_process(StateFiles(tmp_path)).instance
