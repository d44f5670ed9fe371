"""Which revision of the source is deployed, as git knows it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from devopsellence.cli.images import docker_cli
from devopsellence.cli.output import CliError

_PATIENCE: Final = 5.0


async def revision(folder: Path) -> str:
    """The short commit, with ``-dirty`` when anything under ``folder`` differs from it; "" without git or a commit.

    Files that git does not know of count as a difference: a build would take them along. Best effort: after 5 s the
    answer is "".
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
    # Reading must not take the index's lock from whoever works in the folder at the same time (git-status(1)).
    return await docker_cli.run_command(["git", "-C", str(folder), *arguments], {"GIT_OPTIONAL_LOCKS": "0"})
