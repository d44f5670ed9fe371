"""Folder in which tests keep files: private, also where another user was first."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.support.private import private_folder
from tests.support.project import PROJECT

PLACES = ("/tmp", "/var/tmp", "/dev/shm")
# Sources that name a shared folder, and why nobody else can put a file there first.
RANDOM_NAMES = {
    "tests/support/host.py",  # a random name, made with mkdir, which takes none that exists
    "cli/devopsellence/cli/util/temporary.py",  # mkdtemp
    "bench/scale/setting.py",  # mkdtemp
}


def test_folder_is_made_private_and_found_again(tmp_path: Path) -> None:
    folder = private_folder(tmp_path)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert private_folder(tmp_path) == folder


def test_link_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder = private_folder(tmp_path)
    folder.rmdir()
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError, match="is not a private folder"):
        private_folder(tmp_path)


def test_folder_that_others_can_write_is_refused(tmp_path: Path) -> None:
    private_folder(tmp_path).chmod(0o777)
    with pytest.raises(PermissionError, match="is not a private folder"):
        private_folder(tmp_path)


def sources() -> list[Path]:
    roots = ("cli", "core", "controller", "nodeagent", "bench", "tests/support")
    return [path for root in roots for path in (PROJECT / root).rglob("*.py")]


def test_programs_have_no_fixed_name_in_a_shared_folder() -> None:
    naming = {
        str(path.relative_to(PROJECT))
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(PLACES))
        or (isinstance(node, ast.Attribute) and node.attr == "gettempdir")
    }
    # The configuration refuses volumes in /dev/shm.
    assert naming - RANDOM_NAMES - {"core/devopsellence/config/scalars.py"} == {"tests/support/private.py"}


def test_scripts_have_no_fixed_name_in_a_shared_folder() -> None:
    for script in [*(PROJECT / "deploy").rglob("*.sh"), PROJECT / "Makefile"]:
        text = script.read_text()
        assert not [place for place in PLACES if f"{place}/" in text], script
