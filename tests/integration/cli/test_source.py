"""Revision of the working tree in git."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from devopsellence.cli.deploy.git import revision


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


async def test_folder_without_repository_has_no_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert await revision(tmp_path) == ""


async def test_machine_without_git_has_no_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert await revision(tmp_path) == ""


async def test_revision_is_short_commit_with_dirty_mark(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    assert await revision(tmp_path) == "", "no commit yet"
    app = tmp_path / "app"
    app.mkdir()
    (app / "file").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "one")
    short = git(tmp_path, "rev-parse", "--short", "HEAD")
    assert await revision(app) == short
    # What lies outside the app's folder does not make the app differ.
    (tmp_path / "elsewhere").write_text("x")
    assert await revision(app) == short
    (app / "new").write_text("x")
    assert await revision(app) == f"{short}-dirty"
    (app / "new").unlink()
    (app / "file").write_text("2")
    assert await revision(app) == f"{short}-dirty"


async def test_variables_of_another_repository_do_not_mislead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app, other = tmp_path / "app", tmp_path / "other"
    for folder in (app, other):
        folder.mkdir()
        git(folder, "init", "-q")
        (folder / "file").write_text(folder.name)
        git(folder, "add", ".")
        git(folder, "commit", "-q", "-m", folder.name)
    short = git(app, "rev-parse", "--short", "HEAD")
    # As in a git hook.
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git" / "index"))
    assert await revision(app) == short
