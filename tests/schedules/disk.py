"""Disk of a hollow node: a small file system of its own, which fills up and becomes read-only as a real one does."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

from tests.support.read_only import cover_read_only, mount_memory, unmount

#: Far more than an agent writes here.
SIZE: Final = 2 << 20
_BALLAST: Final = "ballast"
_BLOCK: Final = b"\0" * 4096


class NodeDisk:
    """Disk mounted at ``folder``, with the agent's folder in :attr:`state`. Needs a mount namespace of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        folder.mkdir(parents=True)
        mount_memory(folder, SIZE)
        # Can be covered before the agent has been there.
        self.state.mkdir(mode=0o700)

    def fill(self) -> None:
        """Fill the disk, to the last block."""
        descriptor = os.open(self.folder / _BALLAST, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            while True:
                os.write(descriptor, _BLOCK)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
        finally:
            os.close(descriptor)

    def empty(self) -> None:
        """Undo :meth:`fill`."""
        (self.folder / _BALLAST).unlink()

    def make_read_only(self) -> None:
        cover_read_only(self.state)

    def make_writable(self) -> None:
        """Undo :meth:`make_read_only`."""
        unmount(self.state)

    def discard(self) -> None:
        """Unmount everything; the contents are gone."""
        for folder in (self.state, self.folder):
            while folder.is_mount():
                unmount(folder)
