"""Log files that do not grow without bound, and the last lines of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

LOG_BYTES: Final = 5 * 1024 * 1024
_TAIL_BYTES: Final = 64 * 1024


class BoundedLog:
    """Appends to ``path``; past ``limit`` bytes that becomes ``<path>.1``, replacing the last one, and it begins anew.

    So two times ``limit`` is the most that is kept. Errors of the disk are swallowed: a full disk must not stop
    what is being logged about.
    """

    def __init__(self, path: Path, limit: int = LOG_BYTES) -> None:
        self._path = path
        self._limit = limit
        self._descriptor = -1
        self._size = 0

    def write(self, data: bytes) -> None:
        try:
            if self._descriptor < 0:
                self._open()
            elif self._size + len(data) > self._limit:
                self.close()
                self._path.replace(self._path.with_name(self._path.name + ".1"))
                self._open()
            self._size += os.write(self._descriptor, data)
        except OSError:
            self.close()

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> None:
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._descriptor).st_size


def tail(path: Path, lines: int) -> list[str]:
    """The last ``lines`` lines of a log, oldest first; [] when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            return last_lines(file.read(), lines)
    except OSError:
        return []


def last_lines(data: bytes, lines: int) -> list[str]:
    """The last ``lines`` lines of ``data`` that are not blank, oldest first, each at most 500 characters."""
    text = data.decode(errors="replace")
    return [line[:500] for line in text.splitlines() if line.strip()][-lines:]
