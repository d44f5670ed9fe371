"""Files with entries of one kind: a line of JSON for each entry, appended, never changed. Methods block.

A batch that reached the disk in part only, as on a full one, is written again after it: the half line is skipped by
readers, and entries that are there twice have the same id.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Final

from devopsellence.atomic_file import sync_folder
from devopsellence.controller.gateway.audit.retention import AuditFile, Removal, largest_part, parse_name, removal

_MODE: Final = 0o600
_FOLDER_MODE: Final = 0o700


class DayFiles:
    """Files of the ``kind`` in ``folder``, for ``days``, all together of at most about ``max_bytes``."""

    def __init__(self, folder: Path, kind: str, days: int, max_bytes: int) -> None:
        self._folder, self._kind, self._days, self._max_bytes = folder, kind, days, max_bytes
        self._largest = largest_part(max_bytes)
        #: File that is appended to; None: to be chosen.
        self._current: AuditFile | None = None

    def files(self) -> list[AuditFile]:
        """Return the files that there are, oldest first; none without a folder."""
        found = []
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self._folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    if file := parse_name(self._kind, entry.name, entry.stat().st_size):
                        found.append(file)
        return sorted(found)

    def append(self, lines: Iterable[bytes], today: date) -> Removal | None:
        """Append lines to the file of a day; they are on disk on return. Return what was removed for a new file.

        Raises:
            OSError: they are not there, or in part.
        """
        removed = None
        current = self._current
        if current is None or current.day != today or current.size >= self._largest:
            removed = self._clean(today)
            current = self._next(today)
        # Whether the file ends with a whole line is not known after an error.
        self._current = None
        size = _append(self._folder / current.name(self._kind), b"".join(line + b"\n" for line in lines))
        self._current = replace(current, size=size)
        return removed

    def lines(self, file: AuditFile, most: int) -> Iterator[list[bytes]]:
        """Yield the lines of a file, up to the size that it had, at most ``most`` at a time; none if it is gone."""
        with suppress(FileNotFoundError), (self._folder / file.name(self._kind)).open("rb") as opened:
            left, chunk = file.size, []
            for line in opened:
                left -= len(line)
                if left < 0:
                    break
                chunk.append(line)
                if len(chunk) >= most:
                    yield chunk
                    chunk = []
            if chunk:
                yield chunk

    def _clean(self, today: date) -> Removal | None:
        with suppress(FileExistsError):
            self._folder.mkdir(parents=True, mode=_FOLDER_MODE)
        # Room for the file that is begun.
        going = removal(self.files(), today, self._days, self._max_bytes - self._largest)
        for file in going.files:
            (self._folder / file.name(self._kind)).unlink(missing_ok=True)
        return going if going.files else None

    def _next(self, today: date) -> AuditFile:
        """Return the last file of a day if it has room, else a new one."""
        last = max((file for file in self.files() if file.day == today), default=None)
        if last is None:
            return AuditFile(today, 1)
        return last if last.size < self._largest else AuditFile(today, last.part + 1)


def _append(path: Path, content: bytes) -> int:
    """Append to a file on a line of its own, and return the size of the file.

    Raises:
        OSError.
    """
    is_new = not path.exists()
    # The last byte is read, for a line that a crash has cut.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, _MODE)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            content = b"\n" + content
        written = 0
        while written < len(content):
            written += os.write(descriptor, content[written:])
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
    if is_new:
        sync_folder(path.parent)
    return size + len(content)
