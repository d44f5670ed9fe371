"""Atomic replacement of files. Imports only the standard library."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Put names in a folder on disk, such as those of new and renamed files. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, data: bytes, *, mode: int = 0o600, sync: bool = True, keep_owner: bool = False) -> None:
    """Replace ``path`` atomically: write a temporary file, sync, rename.

    The folder must exist; a process must not write the same path concurrently. ``sync`` False for data that need not
    survive a power cut. ``keep_owner``: the new file belongs to the user of the former one, if that is another user.

    Raises:
        OSError: the write failed; ``path`` is unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)  # os.open's mode passes through the umask
            if keep_owner:
                with contextlib.suppress(FileNotFoundError):
                    before = path.stat()
                    # A systemd unit may forbid the call altogether; the group matters to nobody with these modes.
                    if before.st_uid != os.fstat(descriptor).st_uid:
                        os.fchown(descriptor, before.st_uid, before.st_gid)
            file.write(data)
            file.flush()
            if sync:
                os.fsync(descriptor)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
