"""Paths of Debian packages in the tree, and versions."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from deploy.bundle import debian


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param("./bin/bash", "usr/bin/bash", id="merged"),
        pytest.param("./lib/x86_64-linux-gnu/libc.so.6", "usr/lib/x86_64-linux-gnu/libc.so.6", id="library"),
        pytest.param("./lib64/", "usr/lib64", id="folder"),
        pytest.param("./usr/bin/etcd", "usr/bin/etcd", id="in usr"),
        pytest.param("./etc/passwd", "etc/passwd", id="elsewhere"),
        pytest.param("./", "", id="root"),
    ],
)
def test_folders_of_the_root_are_in_usr(path: str, expected: str) -> None:
    assert debian.in_usr(path) == expected


@pytest.mark.parametrize(
    ("package", "path", "wanted"),
    [
        ("bash", "usr/bin/bash", True),
        ("bash", "usr/share/man/man1/bash.1.gz", False),
        ("bash", "usr/share/doc/bash/copyright", True),
        ("bash", "usr/share/doc/bash/README", False),
        ("libstdc++6", "usr/share/doc/libstdc++6", True),  # a link to its source's folder
        ("etcd-server", "usr/lib/systemd/system/etcd.service", False),
        ("util-linux", "usr/bin/flock", True),
        ("util-linux", "usr/bin/su", False),
        ("util-linux", "usr/share/doc/util-linux/copyright", True),
        ("libpython3.11-stdlib", "usr/lib/python3.11/lib-dynload/_curses.cpython-311-x86_64-linux-gnu.so", False),
        ("libpython3.11-stdlib", "usr/lib/python3.11/lib-dynload/_ssl.cpython-311-x86_64-linux-gnu.so", True),
    ],
)
def test_tree_gets_programs_and_licences_only(package: str, path: str, wanted: bool) -> None:
    assert debian.is_wanted(package, path) is wanted


@pytest.mark.parametrize(
    ("version", "upstream"),
    [
        ("3.4.23-4+b4", "3.4.23"),
        ("1:2.3.4-1", "2.3.4"),
        ("3.5.16+dfsg-2", "3.5.16"),
        ("2:1.0", "1.0"),
        ("3.5.33", "3.5.33"),
    ],
)
def test_version_of_the_software_lacks_what_debian_adds(version: str, upstream: str) -> None:
    assert debian.upstream(version) == upstream


def test_unpacked_files_are_in_usr_without_rights_of_root(tmp_path: Path) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, mode in {"./bin/su": 0o4755, "./etc/secret": 0o600, "./usr/share/man/su": 0o644}.items():
            entry = tarfile.TarInfo(name)
            entry.mode = mode
            tar.addfile(entry)
        link = tarfile.TarInfo("./bin/hard")
        link.type, link.linkname, link.mode = tarfile.LNKTYPE, "./bin/su", 0o4755
        tar.addfile(link)
        link = tarfile.TarInfo("./etc/absolute")
        link.type, link.linkname = tarfile.SYMTYPE, "/usr/lib/os-release"
        tar.addfile(link)
    stream.seek(0)
    debian._unpack("login", stream, tmp_path)
    found = {str(path.relative_to(tmp_path)): path for path in tmp_path.rglob("*") if not path.is_dir()}
    assert set(found) == {"usr/bin/su", "usr/bin/hard", "etc/secret", "etc/absolute"}
    assert found["usr/bin/su"].stat().st_mode & 0o7777 == 0o755
    assert found["etc/secret"].stat().st_mode & 0o7777 == 0o644
    assert found["usr/bin/hard"].samefile(found["usr/bin/su"])


def test_entry_that_leads_out_of_the_tree_is_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("./usr/../../outside"))
    stream.seek(0)
    (tmp_path / "tree").mkdir()
    with pytest.raises(tarfile.FilterError):
        debian._unpack("evil", stream, tmp_path / "tree")
    assert not (tmp_path / "outside").exists()


def test_failed_command_says_what_it_said() -> None:
    with pytest.raises(debian.BuildFailed, match=r"'sh -c echo no >&2; exit 1 …' failed:\nno"):
        debian.run(["sh", "-c", "echo no >&2; exit 1"])


def test_missing_program_names_debian() -> None:
    with pytest.raises(debian.BuildFailed, match="a bundle is built on Debian"):
        debian.run(["/nonexistent/apt-get"])
