"""Temporary folders that do not outlive their process for long: a later run removes those of a process that has died.

The owner of a folder holds a lock on a file in it, which the kernel releases with the process. A folder without that
file, or of another user, is never touched.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from devopsellence.cli.output import CliError, NextAction

_PREFIX: Final = "devopsellence-"
_LOCK: Final = "owner.lock"
#: File system in memory, for what must not reach a disk.
MEMORY: Final = Path("/dev/shm")  # noqa: S108 (the folders in it are private to this user)
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


def parent_folder() -> Path:
    """Return the folder of temporary files: ``TMPDIR``, also one that is full, else the system's."""
    named = os.environ.get("TMPDIR")
    return Path(named) if named else Path(tempfile.gettempdir())


@contextmanager
def temporary_folder(parent: Path | None = None) -> Iterator[Path]:
    """Create a folder in ``parent`` (default: :func:`parent_folder`) and remove it at the end of the block.

    First removes folders of dead processes, in ``parent`` and in memory.

    Raises:
        CliError: ``temporary_files``: the folder cannot be created, or its file system became full in the block; the
            message names the folder.
    """
    parent = parent or parent_folder()
    for place in {parent, MEMORY}:
        remove_stale(place)
    try:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    except OSError as error:
        raise _unusable(parent, error) from error
    lock: int | None = None
    try:
        try:
            lock = _own(folder)
        except OSError as error:
            raise _unusable(parent, error) from error
        yield folder
    except OSError as error:
        if error.errno in _FULL:
            raise _unusable(parent, error) from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def full(folder: Path) -> OSError:
    """Return the error of a full file system, for a child process that reported it in words."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def says_full(message: str) -> bool:
    """Return True if the error message of a program is that of a full file system or an exceeded quota."""
    return any(os.strerror(number).lower() in message.lower() for number in _FULL)


def remove_stale(parent: Path) -> list[Path]:
    """Remove the temporary folders of dead processes of this user in ``parent``; return them."""
    with suppress(OSError):
        return [folder for folder in sorted(parent.glob(f"{_PREFIX}*")) if _remove_if_stale(folder)]
    return []


def _remove_if_stale(folder: Path) -> bool:
    """Remove ``folder`` if it belongs to this user and its process has died; return True if so."""
    try:
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            return False
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except OSError:  # in use, or a file system without locks
        return False
    finally:
        os.close(lock)
    return True


def _own(folder: Path) -> int | None:
    """Lock ``folder`` and return the descriptor of the lock; None on a file system without locks.

    The lock file gets its name once it is locked: another process never sees it unlocked while its owner lives.
    """
    new = folder / f"{_LOCK}.new"
    lock = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        # The first bytes also show at once whether the file system is full.
        os.write(lock, f"{os.getpid()}\n".encode())
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            return None
        new.rename(folder / _LOCK)
    except OSError:
        os.close(lock)
        raise
    return lock


def _unusable(parent: Path, error: OSError) -> CliError:
    reason = os.strerror(error.errno) if error.errno else str(error)
    action = NextAction("free space there, or choose another folder", "export TMPDIR=/path/with/space")
    return CliError("temporary_files", f"cannot write temporary files in {parent}: {reason}", next_actions=[action])
