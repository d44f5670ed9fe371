"""Git revision of the source folder."""

from __future__ import annotations

import asyncio
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


async def revision(folder: Path) -> str:
    """Return the short commit, with ``-dirty`` if files under ``folder`` differ from the commit; "" without git.

    Untracked files count as a difference, because a build includes them. Best effort: "" after 5 s.
    """
    try:
        async with asyncio.timeout(_PATIENCE):
            head, changes = await asyncio.gather(
                _git(folder, "rev-parse", "--short", "HEAD"), _git(folder, "status", "--porcelain", "--", ".")
            )
    except (CliError, TimeoutError, OSError):
        return ""
    if head.code != 0:
        return ""
    return head.output.strip() + ("-dirty" if changes.code == 0 and changes.output.strip() else "")


async def _git(folder: Path, *arguments: str) -> docker_cli.CommandResult:
    # Without the lock of the index, so that git commands of the user keep working meanwhile (git-status(1)).
    unset = [word for name in _LOCAL_VARIABLES for word in ("-u", name)]
    command = ["env", *unset, "git", "-C", str(folder), *arguments]
    return await docker_cli.run_command(command, {"GIT_OPTIONAL_LOCKS": "0"})
