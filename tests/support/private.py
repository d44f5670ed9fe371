"""Folder of this user for what tests keep and share: locks and archives.

A name in the system's temporary folder that everybody can know must not be trusted: another user could have put a file
there, or a link that leads to one of ours.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path


def private_folder(parent: Path | None = None) -> Path:
    """Return the folder, created if missing; only this user can write it or replace it.

    Raises:
        PermissionError: something else has the folder's name.
    """
    folder = (parent or Path(tempfile.gettempdir())) / f"devopsellence-tests-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(f"{folder} is not a private folder of this user: remove it, or set TMPDIR")
    return folder
