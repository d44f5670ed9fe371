"""Files of the agent's folder: read whatever is there, written whatever is in the way, repaired, retried."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from devopsellence.nodeagent import state_files
from devopsellence.nodeagent.state_files import StateFiles, read_file

CONTENT = b'{"right": true}'


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def removed(path: Path) -> None:
    path.unlink()


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def full_folder(path: Path) -> None:
    folder(path)
    (path / "something").write_bytes(b"of somebody")


def link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def link_to_another_file(path: Path) -> None:
    path.unlink()
    other = path.with_name("other")
    other.write_bytes(b"other")
    path.symlink_to(other)


def link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def read_only(path: Path) -> None:
    path.chmod(0o400)


def replaced(path: Path) -> None:
    path.unlink()
    path.write_bytes(b"x" * len(CONTENT))


DAMAGES = [
    empty,
    cut,
    removed,
    folder,
    full_folder,
    link_to_nothing,
    link_to_another_file,
    link_to_itself,
    fifo,
    read_only,
    replaced,
]
damages = pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)


@pytest.fixture
def files(tmp_path: Path) -> StateFiles:
    return StateFiles(tmp_path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memory" / "acme+shop+production.json"


def is_right(path: Path) -> bool:
    found = path.lstat()
    return stat.S_ISREG(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o600 and path.read_bytes() == CONTENT


@damages
def test_damaged_file_is_written_again(files: StateFiles, path: Path, damage: Callable[[Path], None]) -> None:
    files.write(path, CONTENT, sync=True)
    damage(path)
    assert files.check() == ([] if damage is read_only else [path])
    assert is_right(path)
    assert files.check() == []
    assert files.problem == ""


@damages
def test_adopted_file_is_written_again(tmp_path: Path, path: Path, damage: Callable[[Path], None]) -> None:
    StateFiles(tmp_path).write(path, CONTENT, sync=False)
    files = StateFiles(tmp_path)
    files.adopt(path, files.read(path))
    damage(path)
    files.check([path])
    assert is_right(path)


@damages
def test_file_is_written_whatever_is_in_its_place(
    files: StateFiles, path: Path, damage: Callable[[Path], None]
) -> None:
    path.parent.mkdir()
    path.write_bytes(b"before")
    damage(path)
    files.write(path, CONTENT, sync=False)
    assert is_right(path)


@damages
def test_file_is_written_whatever_is_in_place_of_the_temporary_file(
    files: StateFiles, path: Path, damage: Callable[[Path], None]
) -> None:
    path.parent.mkdir()
    temporary = path.with_suffix(state_files.TEMPORARY)
    temporary.write_bytes(b"of an interrupted write")
    damage(temporary)
    files.write(path, CONTENT, sync=False)
    assert is_right(path)


def test_contents_of_a_folder_in_the_way_are_set_aside(files: StateFiles, path: Path) -> None:
    for number in range(2):
        files.write(path, CONTENT, sync=False)
        full_folder(path)
        (path / "something").write_text(str(number))
        files.check()
    asides = [path.with_name(f"{path.name}.damaged{end}") for end in ("", "-2")]
    assert [(aside / "something").read_text() for aside in asides] == ["0", "1"]


def test_folder_that_was_removed_is_created_again_for_this_user_only(files: StateFiles, tmp_path: Path) -> None:
    deep = tmp_path / "envoy" / "config" / "eds" / "web.json"
    files.write(deep, CONTENT, sync=False)
    shutil.rmtree(tmp_path / "envoy")
    assert files.check() == [deep]
    assert is_right(deep)
    assert {stat.S_IMODE(parent.stat().st_mode) for parent in deep.parents[:3]} == {0o700}


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (folder, "is a folder, not a file"),
        (link_to_nothing, "is a symbolic link to nothing, not a file"),
        (link_to_itself, "symbolic links"),
        (fifo, "is something else, not a file"),
    ],
    ids=["folder", "link to nothing", "link to itself", "fifo"],
)
def test_reading_names_a_thing_that_is_no_file(path: Path, damage: Callable[[Path], None], words: str) -> None:
    path.parent.mkdir()
    path.touch()
    damage(path)
    with pytest.raises(OSError, match=words) as caught:
        read_file(path)
    assert not isinstance(caught.value, FileNotFoundError)
    assert caught.value.filename in (path, str(path))


def test_missing_file_is_told_from_a_damaged_one(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_file(path)


def test_file_of_an_earlier_agent_with_the_same_content_is_not_written(tmp_path: Path, path: Path) -> None:
    StateFiles(tmp_path).write(path, CONTENT, sync=False)
    before = path.stat()
    files = StateFiles(tmp_path)
    assert files.holds(path, CONTENT)
    assert not files.holds(path, b"other")
    assert path.stat() == before


def test_removed_file_is_not_written_again(files: StateFiles, path: Path) -> None:
    files.write(path, CONTENT, sync=False)
    files.remove(path)
    assert files.check() == []
    assert not path.exists()
    files.remove(path)


@damages
def test_anything_can_be_removed(files: StateFiles, path: Path, damage: Callable[[Path], None]) -> None:
    files.write(path, CONTENT, sync=False)
    damage(path)
    files.remove(path)
    assert not os.path.lexists(path)


def test_failed_write_is_a_problem_until_a_retry_succeeds(files: StateFiles, path: Path) -> None:
    told: list[str] = []
    files.notify = lambda: told.append(files.problem)
    # A file in place of the folder stands for any reason not to be able to write.
    path.parent.touch()
    with pytest.raises(OSError):
        files.write(path, b"older", sync=True)
    with pytest.raises(OSError):
        files.write(path, CONTENT, sync=True)
    assert f"the agent cannot write its folder {files.root} (memory/{path.name}: " in files.problem
    assert told == [files.problem]
    assert not files.retry()
    assert not files.holds(path, CONTENT)
    path.parent.unlink()
    assert files.retry()
    assert is_right(path)
    assert files.problem == told[-1] == ""


@pytest.mark.parametrize("before", [None, b"before"], ids=["no file", "a file"])
def test_write_that_is_not_kept_trying_leaves_the_file_as_it_was(
    files: StateFiles, path: Path, before: bytes | None
) -> None:
    aside = path.parent.with_name("aside")
    if before is not None:
        files.write(path, before, sync=True)
        path.parent.rename(aside)
    path.parent.touch()
    with pytest.raises(OSError):
        files.write(path, CONTENT, sync=True, keep_trying=False)
    path.parent.unlink()
    if before is not None:
        aside.rename(path.parent)
    assert files.retry()
    assert files.problem == ""
    assert (path.read_bytes() if path.exists() else None) == before


def test_file_no_longer_wanted_is_no_problem(files: StateFiles, path: Path) -> None:
    path.parent.touch()
    with pytest.raises(OSError):
        files.write(path, CONTENT, sync=True)
    path.parent.unlink()
    files.remove(path)
    assert files.problem == ""
    assert files.retry()


@pytest.mark.parametrize(
    ("number", "fix"),
    [
        (errno.ENOSPC, "No space left on device): free space on its disk"),
        (errno.EDQUOT, "free space on its disk"),
        (errno.EROFS, "Read-only file system): mount its disk so that it can be written"),
        (errno.EACCES, "Permission denied): make it writable for the agent"),
    ],
    ids=["full", "quota", "read-only", "not allowed"],
)
def test_problem_names_folder_file_cause_and_fix(tmp_path: Path, number: int, fix: str) -> None:
    error = OSError(number, os.strerror(number), "x")
    sentence = state_files._sentence(tmp_path, tmp_path / "status" / "a.json", error)
    assert sentence.startswith(f"the agent cannot write its folder {tmp_path} (status/a.json: ")
    assert sentence.endswith(fix)


@damages
def test_folder_is_made_whatever_is_there(files: StateFiles, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    place = tmp_path / "memory"
    place.touch()
    damage(place)
    files.make_folder(place)
    assert place.is_dir()
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
