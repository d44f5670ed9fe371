"""Repositories of somebody else run none of their programs at ``deploy`` and ``config validate``."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from devopsellence.cli.deploy.git import revision
from tests.support.cli import Cli

Trap = Callable[[Path, str], None]


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"]
    local = ["-c", "protocol.file.allow=always"]
    command = ["git", "-C", str(folder), *identity, *local, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def repository(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    git(folder, "init", "-q")
    (folder / "file").write_text("1")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "one")


def rewritten(folder: Path) -> None:
    """Make git compare the content of ``file``, which passes it through filters."""
    os.utime(folder / "file", (1, 1))


def file_system_monitor(folder: Path, program: str) -> None:
    repository(folder)
    git(folder, "config", "core.fsmonitor", program)


def hook(folder: Path, program: str) -> None:
    repository(folder)
    hooks = folder / "hooks"
    hooks.mkdir()
    (hooks / "post-index-change").symlink_to(program)
    git(folder, "config", "core.hooksPath", str(hooks))
    rewritten(folder)


def clean_filter(folder: Path, program: str, name: str = "f") -> None:
    repository(folder)
    (folder / ".gitattributes").write_text(f"file filter={name}\n")
    with (folder / ".git" / "config").open("a") as config:
        config.write(f'[filter "{name}"]\n\tclean = {program}\n\trequired = true\n')
    rewritten(folder)


def filter_with_an_equals_sign(folder: Path, program: str) -> None:
    clean_filter(folder, program, "a=b.clean")


def filter_process(folder: Path, program: str) -> None:
    clean_filter(folder, "cat")
    git(folder, "config", "filter.f.process", program)


def filter_of_an_included_file(folder: Path, program: str) -> None:
    repository(folder)
    (folder / ".gitattributes").write_text("file filter=f\n")
    (folder / "more").write_text(f'[filter "f"]\n\tclean = {program}\n')
    git(folder, "config", "include.path", "../more")
    rewritten(folder)


def filter_of_the_work_tree(folder: Path, program: str) -> None:
    repository(folder)
    (folder / ".gitattributes").write_text("file filter=f\n")
    git(folder, "config", "extensions.worktreeConfig", "true")
    git(folder, "config", "--worktree", "filter.f.clean", program)
    rewritten(folder)


def submodule(folder: Path, program: str) -> None:
    origin = folder.parent / "origin"
    repository(origin)
    repository(folder)
    git(folder, "submodule", "--quiet", "add", str(origin), "module")
    git(folder, "commit", "-q", "-m", "two")
    git(folder / "module", "config", "core.fsmonitor", program)
    git(folder / "module", "config", "filter.f.clean", program)
    (folder / ".git" / "modules" / "module" / "info" / "attributes").write_text("file filter=f\n")
    rewritten(folder / "module")


def fetch_of_a_missing_object(folder: Path, program: str) -> None:
    repository(folder)
    commit = git(folder, "rev-parse", "HEAD")
    (folder / ".git" / "objects" / commit[:2] / commit[2:]).unlink()
    git(folder, "config", "core.repositoryFormatVersion", "1")
    git(folder, "config", "extensions.partialClone", "origin")
    git(folder, "config", "remote.origin.promisor", "true")
    git(folder, "config", "remote.origin.url", str(folder.parent))
    git(folder, "config", "remote.origin.uploadpack", f"{program} < /dev/null #")


def embedded_bare_repository(folder: Path, program: str) -> None:
    """Make the app's folder itself a bare repository, as a commit can contain it."""
    folder.mkdir(exist_ok=True)
    git(folder, "init", "-q", "--bare")
    git(folder, "config", "core.bare", "false")
    git(folder, "config", "core.worktree", str(folder))
    git(folder, "config", "core.fsmonitor", program)


TRAPS: Final[list[Trap]] = [
    file_system_monitor,
    hook,
    clean_filter,
    filter_with_an_equals_sign,
    filter_process,
    filter_of_an_included_file,
    filter_of_the_work_tree,
    submodule,
    fetch_of_a_missing_object,
    embedded_bare_repository,
]


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "marker"


@pytest.fixture
def program(tmp_path: Path, marker: Path) -> str:
    """Program of an attacker, which leaves a marker."""
    path = tmp_path / "program"
    path.write_text(f"#!/bin/sh\necho ran >> {marker}\nexec cat\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: trap.__name__)
def test_hostile_repository_runs_no_program(trap: Trap, shop: Cli, marker: Path, program: str) -> None:
    trap(shop.folder, program)
    # What git does by itself, so that a trap that catches nobody is noticed.
    subprocess.run(["git", "-C", str(shop.folder), "status"], capture_output=True, check=False)
    assert marker.exists(), "the trap catches nobody"
    marker.unlink()
    for path in (shop.folder / "file", shop.folder / "module" / "file"):
        if path.exists():
            rewritten(path.parent)
    shop.ok("node", "register", "n1")
    shop.ok("node", "attach", "n1")
    shop.ok("config", "validate")
    shop.ok("deploy", "--dry-run")
    shop.ok("deploy", "--detach")
    assert not marker.exists()


async def test_change_within_a_submodule_makes_the_revision_dirty(tmp_path: Path) -> None:
    folder = tmp_path / "app"
    submodule(folder, "")
    short = git(folder, "rev-parse", "--short", "HEAD")
    assert await revision(folder) == short
    (folder / "module" / "file").write_text("2")
    assert await revision(folder) == f"{short}-dirty"


async def test_filters_of_the_user_keep_working(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    (home / ".gitconfig").write_text('[filter "upper"]\n\tclean = tr a-z A-Z\n')
    folder = tmp_path / "app"
    repository(folder)
    (folder / ".gitattributes").write_text("text filter=upper\n")
    (folder / "text").write_text("words")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "two")
    os.utime(folder / "text", (1, 1))
    assert await revision(folder) == git(folder, "rev-parse", "--short", "HEAD")
