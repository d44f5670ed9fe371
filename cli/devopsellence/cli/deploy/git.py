"""Git revision of the source folder; the only module that runs git.

The folder may be a repository of somebody else, and git runs programs that a repository's configuration names: file
system monitors, hooks, filters, transports. All of them are switched off for the calls of this module. Filters of the
user's own configuration, such as Git LFS, keep working.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from devopsellence.cli.images import docker_cli
from devopsellence.cli.output import CliError

_PATIENCE: Final = 5.0
# Variables that point git to another repository (git rev-parse --local-env-vars), such as within a git hook.
_LOCAL_VARIABLES: Final = (
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_CONFIG",
    "GIT_CONFIG_COUNT",
    "GIT_CONFIG_PARAMETERS",
    "GIT_DIR",
    "GIT_GRAFT_FILE",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_NO_REPLACE_OBJECTS",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_REPLACE_REF_BASE",
    "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
)
_SETTINGS: Final = (
    # A bare repository among the files of a commit is no repository (git-config(1)).
    "safe.bareRepository=explicit",
    # A path here is a program that git status runs.
    "core.fsmonitor=",
    "core.hooksPath=/dev/null",
)
_ENVIRONMENT: Final = {
    # Without the lock of the index, so that git commands of the user keep working meanwhile (git-status(1)).
    "GIT_OPTIONAL_LOCKS": "0",
    # A partial clone would fetch missing objects by the command that its configuration names. Older versions of git
    # know the second variable only: no transport has this name.
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_TERMINAL_PROMPT": "0",
}
_STATUS: Final = (
    "status",
    "--porcelain",
    "--untracked-files=normal",
    "--no-renames",
    # Only whether another commit is checked out: git would look into a submodule with the submodule's own filters.
    "--ignore-submodules=dirty",
    "--",
    ".",
)
_FILTER_KEY: Final = re.compile(r"filter\..*\.(clean|smudge|process|required)\Z", re.DOTALL)
_OF_REPOSITORY: Final = frozenset({"local", "worktree"})
_SUBMODULE_MODE: Final = "160000"
_MAX_SUBMODULES: Final = 64


async def revision(folder: Path) -> str:
    """Return the short commit, with ``-dirty`` if files under ``folder`` differ from the commit; "" without git.

    Untracked files count as a difference, because a build includes them. Best effort: "" after 5 s.
    """
    try:
        async with asyncio.timeout(_PATIENCE):
            head = await _git(folder, "rev-parse", "--short", "HEAD")
            if head.code != 0:
                return ""
            return head.output.strip() + ("-dirty" if await _is_dirty(folder) else "")
    except (CliError, TimeoutError, OSError):
        return ""


async def _is_dirty(folder: Path) -> bool:
    """Return whether files under ``folder`` or in a submodule below differ from the commit."""
    waiting, visited = [folder], 0
    while waiting and visited < _MAX_SUBMODULES:
        repository, visited = waiting.pop(), visited + 1
        configured, listed = await asyncio.gather(
            _git(repository, "config", "--list", "--show-scope", "--null"),
            _git(repository, "ls-files", "--stage", "-z"),
        )
        if configured.code != 0:
            continue
        changes = await _git(repository, *_STATUS, settings=dict(_without_filters(configured.output)))
        if changes.code == 0 and changes.output.strip():
            return True
        waiting += _submodules(repository, listed.output)
    return False


def _without_filters(configuration: str) -> Iterator[tuple[str, str]]:
    """Yield the settings that empty the filters of the repository's configuration (``config --list`` with scopes)."""
    fields = configuration.split("\0")
    for scope, entry in zip(fields[::2], fields[1::2], strict=False):
        key = entry.partition("\n")[0]
        if scope in _OF_REPOSITORY and (match := _FILTER_KEY.match(key)):
            yield key, "false" if match[1] == "required" else ""


def _submodules(repository: Path, listed: str) -> list[Path]:
    """Return the submodules that are checked out, from ``ls-files --stage``."""
    paths = [
        repository / path
        for details, _, path in (entry.partition("\t") for entry in listed.split("\0"))
        if details.startswith(_SUBMODULE_MODE)
    ]
    return [path for path in paths if not path.is_symlink() and (path / ".git").exists()]


async def _git(folder: Path, *arguments: str, settings: Mapping[str, str] | None = None) -> docker_cli.CommandResult:
    unset = [word for name in _LOCAL_VARIABLES for word in ("-u", name)]
    options = [word for setting in _SETTINGS for word in ("-c", setting)]
    command = ["env", *unset, *_as_variables(settings or {}), "git", "--no-pager", "-C", str(folder), *options]
    return await docker_cli.run_command([*command, *arguments], _ENVIRONMENT)


def _as_variables(settings: Mapping[str, str]) -> list[str]:
    """Return settings as variables: unlike ``-c``, they take a filter whose name contains ``=``."""
    pairs = [
        (f"GIT_CONFIG_KEY_{number}={key}", f"GIT_CONFIG_VALUE_{number}={value}")
        for number, (key, value) in enumerate(settings.items())
    ]
    return [f"GIT_CONFIG_COUNT={len(pairs)}", *(word for pair in pairs for word in pair)]
