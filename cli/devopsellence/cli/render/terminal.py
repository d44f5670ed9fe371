"""Terminal painter: redraws a frame in place, below earlier output, by writing only the changed lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

_HIDE: Final = "\x1b[?25l"
_SHOW: Final = "\x1b[?25h"
_CLEAR_LINE: Final = "\x1b[K"
_CLEAR_BELOW: Final = "\x1b[J"
_CLEAR_SCREEN: Final = "\x1b[2J\x1b[H"


class Painter:
    """Painter of frames; every frame is a single call of ``write``.

    A frame must be narrower and lower than the terminal, so that no line wraps or scrolls away.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._lines: list[str] | None = None
        self._size = (0, 0)

    def paint(self, lines: Sequence[str], size: tuple[int, int]) -> None:
        """Replace the previous frame by ``lines``.

        ``size`` is the size of the terminal; after a change of size the position of the old frame is unknown, so the
        screen is cleared.
        """
        out = ""
        before = self._lines
        if before is None:
            out, before = _HIDE, []
        elif size != self._size:
            out, before = _CLEAR_SCREEN, []
        elif before == list(lines):
            return
        out += _rewritten(before, lines)
        self._lines, self._size = list(lines), size
        self._write(out)

    def close(self) -> None:
        """Leave the last frame on the screen and put the cursor on a new line below."""
        if self._lines is not None:
            self._write(f"\r\n{_SHOW}")
        self._lines = None


def _rewritten(before: Sequence[str], lines: Sequence[str]) -> str:
    """Return the control codes that turn ``before`` into ``lines``; the cursor starts and ends in the last line."""
    out = f"\r\x1b[{len(before) - 1}A" if len(before) > 1 else "\r"
    for index, line in enumerate(lines):
        if index >= len(before):
            # At the bottom of the terminal, only a newline scrolls.
            out += ("\r\n" if index else "") + line
            continue
        out += "\x1b[B" if index else ""
        out += f"\r{line}{_CLEAR_LINE}" if line != before[index] else ""
    return f"{out}\x1b[B\r{_CLEAR_BELOW}\x1b[A" if len(lines) < len(before) else out
