"""Log files of bounded size, and their last lines."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

LOG_BYTES: Final = 5 * 1024 * 1024
_TAIL_BYTES: Final = 64 * 1024


class BoundedLog:
    """Log file that is rotated to ``<path>.1`` at ``limit`` bytes, so at most twice ``limit`` is kept.

    Ignores disk errors: a full disk must not stop the logged process.
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
    """Return the last ``lines`` lines of a log file, oldest first; [] without a file."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            return last_lines(file.read(), lines)
    except OSError:
        return []


def last_lines(data: bytes, lines: int) -> list[str]:
    """Return the last ``lines`` non-blank lines of ``data``, oldest first, each cut to 500 characters."""
    text = data.decode(errors="replace")
    return [line[:500] for line in text.splitlines() if line.strip()][-lines:]
