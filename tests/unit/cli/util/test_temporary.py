from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from devopsellence.cli.output import CliError
from devopsellence.cli.util import temporary
from devopsellence.cli.util.temporary import full, parent_folder, remove_stale, says_full, temporary_folder
from tests.support.process import python_environ

CRASH = """
import os, sys
from pathlib import Path
from devopsellence.cli.util.temporary import temporary_folder
with temporary_folder(Path(sys.argv[1])) as folder:
    (folder / "images.tar").write_bytes(b"x" * 1000)
    print(folder, flush=True)
    os.kill(os.getpid(), 9)
"""


def crashed(parent: Path) -> Path:
    """Return the folder of a process that was killed."""
    done = subprocess.run(
        [sys.executable, "-c", CRASH, str(parent)],
        env=python_environ(dict(os.environ)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -9, done.stderr
    return Path(done.stdout.strip())


@pytest.fixture(autouse=True)
def no_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Leave the folders of other processes of this machine alone."""
    monkeypatch.setattr(temporary, "MEMORY", tmp_path / "memory")


def test_folder_is_private_and_removed_at_the_end(tmp_path: Path) -> None:
    with temporary_folder(tmp_path) as folder:
        (folder / "layer").write_text("x")
        assert folder.parent == tmp_path
        assert folder.stat().st_mode & 0o077 == 0
    assert not folder.exists()


def test_folder_is_removed_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(LookupError), temporary_folder(tmp_path) as folder:
        raise LookupError
    assert not folder.exists()


def test_next_folder_removes_that_of_a_crashed_process(tmp_path: Path) -> None:
    left = crashed(tmp_path)
    assert (left / "images.tar").exists()
    with temporary_folder(tmp_path) as folder:
        assert [path for path in tmp_path.iterdir() if path.is_dir()] == [folder]


def test_folder_in_memory_is_removed_wherever_the_next_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = tmp_path / "shm"
    memory.mkdir()
    left = crashed(memory)
    monkeypatch.setattr(temporary, "MEMORY", memory)
    with temporary_folder(tmp_path):
        assert not left.exists()


def test_folder_of_a_living_process_is_kept(tmp_path: Path) -> None:
    with temporary_folder(tmp_path) as first, temporary_folder(tmp_path) as second:
        assert remove_stale(tmp_path) == []
        assert first.exists()
        assert second.exists()


def test_foreign_folders_are_never_removed(tmp_path: Path) -> None:
    # Without the lock file, with a lock that never got its name, and a link to a folder elsewhere.
    (tmp_path / "devopsellence-data").mkdir()
    (tmp_path / "devopsellence-begun").mkdir()
    (tmp_path / "devopsellence-begun" / "owner.lock.new").touch()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "owner.lock").touch()
    (tmp_path / "devopsellence-link").symlink_to(elsewhere)
    assert remove_stale(tmp_path) == []
    assert elsewhere.exists()


def test_missing_parent_has_nothing_stale(tmp_path: Path) -> None:
    assert remove_stale(tmp_path / "missing") == []


def test_tmpdir_is_taken_at_its_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Python's tempfile silently takes another folder.
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    assert parent_folder() == tmp_path / "missing"
    with pytest.raises(CliError) as refused, temporary_folder():
        pass
    assert refused.value.code == "temporary_files"
    assert f"cannot write temporary files in {tmp_path / 'missing'}: No such file" in refused.value.message
    assert [action.command for action in refused.value.next_actions] == ["export TMPDIR=/path/with/space"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_file_system_is_named(tmp_path: Path, number: int) -> None:
    with pytest.raises(CliError) as refused, temporary_folder(tmp_path):
        raise OSError(number, os.strerror(number))
    assert f"cannot write temporary files in {tmp_path}: {os.strerror(number)}" == refused.value.message


def test_other_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), temporary_folder(tmp_path):
        raise FileNotFoundError(errno.ENOENT, "no such image")


def test_words_of_a_child_process_about_a_full_file_system(tmp_path: Path) -> None:
    assert says_full("write /dev/stdout: no space left on device")
    assert says_full("write /tmp/x: disk quota exceeded")
    assert not says_full("no such image")
    with pytest.raises(CliError, match="No space left on device"), temporary_folder(tmp_path) as folder:
        raise full(folder)
