"""Archives of equal folders have equal bytes, whoever packs them and when."""

from __future__ import annotations

import lzma
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from deploy.bundle import archive


def folder(at: Path, names: list[str]) -> Path:
    """Make a folder with files in this order, a link and a program."""
    (at / "usr/bin").mkdir(parents=True)
    for name in names:
        (at / name).write_text(f"content of {name}")
    (at / "usr/bin/run").write_text("#!/bin/sh\n")
    (at / "usr/bin/run").chmod(0o755)
    (at / "bin").symlink_to("usr/bin")
    return at


def packed(source: Path, target: Path) -> bytes:
    archive.write_tar(source, target, "1.2.3", 1_700_000_000)
    return target.read_bytes()


def test_equal_folders_give_equal_bytes(tmp_path: Path) -> None:
    first = folder(tmp_path / "first", ["a", "b-c", "usr/z", "b"])
    second = folder(tmp_path / "second", ["usr/z", "b", "b-c", "a"])
    os.utime(second / "a", (1, 1))
    assert packed(first, tmp_path / "1.tar") == packed(second, tmp_path / "2.tar")


def test_entries_are_below_the_version_and_belong_to_root(tmp_path: Path) -> None:
    packed(folder(tmp_path / "tree", ["b", "a"]), tmp_path / "x.tar")
    with tarfile.open(tmp_path / "x.tar") as tar:
        found = tar.getmembers()
    assert [entry.name for entry in found] == [
        *("1.2.3", "1.2.3/a", "1.2.3/b", "1.2.3/bin", "1.2.3/usr", "1.2.3/usr/bin", "1.2.3/usr/bin/run")
    ]
    assert {(entry.uid, entry.gid, entry.uname, entry.mtime) for entry in found} == {(0, 0, "root", 1_700_000_000)}
    assert found[3].linkname == "usr/bin"
    assert found[-1].mode == 0o755


def test_set_user_id_bit_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/su").write_text("")
    (tmp_path / "tree/su").chmod(0o4755)
    packed(tmp_path / "tree", tmp_path / "x.tar")
    with tarfile.open(tmp_path / "x.tar") as tar:
        assert tar.getmember("1.2.3/su").mode == 0o755


def test_pipe_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    os.mkfifo(tmp_path / "tree/pipe")
    with pytest.raises(ValueError, match="pipe is neither a file nor a folder nor a link"):
        packed(tmp_path / "tree", tmp_path / "x.tar")


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_compressed_parts_are_one_file_for_any_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"".join(bytes([number % 251]) * 1000 for number in range(1000)))
    monkeypatch.setattr(archive, "_PART", 300_001)
    monkeypatch.setattr(os, "cpu_count", lambda: workers)
    archive.compress(source, tmp_path / "x.xz", 0)
    content = source.read_bytes()
    parts = [content[start : start + 300_001] for start in range(0, len(content), 300_001)]
    assert (tmp_path / "x.xz").read_bytes() == b"".join(lzma.compress(part, preset=0) for part in parts)
    assert lzma.decompress((tmp_path / "x.xz").read_bytes()) == content


def test_digest_is_that_of_sha256sum(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(3_000_000))
    done = subprocess.run(["sha256sum", str(tmp_path / "x")], capture_output=True, text=True, check=True)
    assert archive.sha256(tmp_path / "x") == done.stdout.split()[0]
