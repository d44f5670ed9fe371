"""Folders that cannot be written, and small file systems.

All in a mount namespace of a thread or a process: nothing stays behind when it ends.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Final

from tests.support.need import lack

_NEW_MOUNTS: Final = 0x00020000
_DETACH: Final = 0x2
_READ_ONLY, _REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 0x1, 0x20, 0x1000, 0x4000, 0x40000


def need_mounts() -> None:
    """Skip or fail the test without root."""
    if os.geteuid() != 0:
        lack("needs root, to make a mount namespace")


def make_read_only(folder: Path) -> None:
    """Let the calling thread find ``folder`` on a read-only file system from now on."""
    _check(_library.unshare(_NEW_MOUNTS))
    _mount("none", Path("/"), _RECURSIVE | _PRIVATE)
    cover_read_only(folder)


def cover_read_only(folder: Path) -> None:
    """Mount ``folder`` once more, read-only, on top of itself; files open before can be written on."""
    _mount(str(folder), folder, _BIND)
    _mount("none", folder, _REMOUNT | _BIND | _READ_ONLY)


def mount_memory(folder: Path, size: int) -> None:
    """Mount an empty file system of ``size`` bytes, in memory."""
    _mount("tmpfs", folder, 0, kind="tmpfs", options=f"size={size}")


def unmount(folder: Path) -> None:
    """Unmount the topmost mount of ``folder``, also while files in it are open."""
    _check(_library.umount2(os.fsencode(folder), _DETACH))


def make_writable(folder: Path) -> None:
    """Undo :func:`make_read_only`, on the same thread."""
    _check(_library.umount2(os.fsencode(folder), 0))


def _mount(source: str, target: Path, flags: int, *, kind: str = "", options: str = "") -> None:
    _check(
        _library.mount(
            source.encode(),
            os.fsencode(target),
            kind.encode() or None,
            ctypes.c_ulong(flags),
            options.encode() or None,
        )
    )


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


_library = ctypes.CDLL(None, use_errno=True)
