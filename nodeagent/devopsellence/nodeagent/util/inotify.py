"""Watch on folders by inotify(7): the paths of files in them that somebody removed, replaced or changed."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

_ATTRIB: Final = 0x4
_CLOSE_WRITE: Final = 0x8
_MOVED: Final = 0x40 | 0x80
_DELETE: Final = 0x200
_SELF: Final = 0x400 | 0x800
_ONLY_FOLDER: Final = 0x01000000
_MASK: Final = _ATTRIB | _CLOSE_WRITE | _MOVED | _DELETE | _SELF | _ONLY_FOLDER
_OVERFLOW: Final = 0x4000
_IGNORED: Final = 0x8000
_HEADER: Final = struct.Struct("iIII")
_BUFFER_BYTES: Final = 1 << 16


class FolderWatch:
    """Watch on folders, without their subfolders; ``descriptor`` is readable while there are events.

    Raises:
        OSError: the kernel has no inotify instance left for this user.
    """

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None, use_errno=True)
        self.descriptor = int(self._library.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))
        if self.descriptor < 0:
            raise _last_error()
        self._folders: dict[int, Path] = {}

    @property
    def folders(self) -> frozenset[Path]:
        """Watched folders."""
        return frozenset(self._folders.values())

    def close(self) -> None:
        """Stop watching."""
        os.close(self.descriptor)

    def add(self, folders: Iterable[Path]) -> None:
        """Watch folders, those that were removed and created again as well. Folders that are missing are left out."""
        for folder in folders:
            # The kernel gives a known folder the number that it has.
            number = self._library.inotify_add_watch(self.descriptor, os.fsencode(folder), _MASK)
            if number >= 0:
                self._folders[number] = folder

    def changed(self) -> set[Path] | None:
        """Return the paths that something happened to since the last call; None if that is not known for each path.

        Does not block.
        """
        paths: set[Path] = set()
        known = True
        while True:
            try:
                events = os.read(self.descriptor, _BUFFER_BYTES)
            except BlockingIOError:
                return paths if known else None
            for number, mask, name in _parse(events):
                folder = self._folders.get(number)
                if mask & _IGNORED:
                    self._folders.pop(number, None)
                if mask & (_OVERFLOW | _SELF | _IGNORED) or folder is None:
                    known = False
                else:
                    paths.add(folder / name)


def _parse(events: bytes) -> Iterator[tuple[int, int, str]]:
    """Yield watch number, mask and file name of each event (``struct inotify_event``)."""
    position = 0
    while position < len(events):
        number, mask, _cookie, length = _HEADER.unpack_from(events, position)
        position += _HEADER.size
        yield number, mask, os.fsdecode(events[position : position + length].rstrip(b"\0"))
        position += length


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
