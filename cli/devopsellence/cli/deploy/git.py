"""Git revision of the source folder."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from devopsellence.cli.images import docker_cli
from devopsellence.cli.output import CliError

_PATIENCE: Final = 5.0


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
    return await docker_cli.run_command(["git", "-C", str(folder), *arguments], {"GIT_OPTIONAL_LOCKS": "0"})
