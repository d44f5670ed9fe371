"""Parts of the tree that need no packages: etcd of a release, and libraries from outside. The whole tree is built in
tests/integration/bundle."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.bundle import tree
from deploy.bundle.debian import BuildFailed

LISTING = """\
\tlibc.so.6 => /build/tree/usr/lib/x86_64-linux-gnu/libc.so.6 (0x1)
\tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x2)
\tlibfoo.so.2 => not found
\tlinux-vdso.so.1 (0x3)
"""


def release(folder: Path, *names: str) -> Path:
    """Make a folder with programs that tell a version as etcd does."""
    folder.mkdir()
    for name in names:
        (folder / name).write_text("#!/bin/sh\necho 'etcd Version: 3.6.14'\necho 'Git SHA: x'\n")
        (folder / name).chmod(0o755)
    return folder


def test_etcd_of_a_release_is_copied_with_its_version(tmp_path: Path) -> None:
    source = release(tmp_path / "etcd-v3.6.14", "etcd", "etcdctl", "etcdutl")
    assert tree.add_etcd(tmp_path / "tree", source) == "3.6.14"
    assert sorted(path.name for path in (tmp_path / "tree/usr/bin").iterdir()) == ["etcd", "etcdctl", "etcdutl"]


def test_etcd_before_3_5_has_no_etcdutl(tmp_path: Path) -> None:
    assert tree.add_etcd(tmp_path / "tree", release(tmp_path / "old", "etcd", "etcdctl")) == "3.6.14"


def test_folder_without_etcdctl_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match="has no program etcdctl"):
        tree.add_etcd(tmp_path / "tree", release(tmp_path / "half", "etcd"))


def test_libraries_of_the_building_machine_do_not_count() -> None:
    lines = tree._outside(LISTING, Path("/build/tree"))
    assert [line.split()[0] for line in lines] == ["libz.so.1", "libfoo.so.2"]
