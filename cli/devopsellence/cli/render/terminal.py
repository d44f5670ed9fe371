"""Drawing frames over one another on a terminal, below what stands there already, by the lines that differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

_HIDE: Final = "\x1b[?25l"
_SHOW: Final = "\x1b[?25h"
_CLEAR_LINE: Final = "\x1b[K"
_CLEAR_BELOW: Final = "\x1b[J"
_CLEAR_SCREEN: Final = "\x1b[2J\x1b[H"


class Painter:
    """Writes frames with ``write``, each in one call. A frame's lines must be narrower than the terminal, its height
    smaller than the terminal's: no line may wrap, none scroll away."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._lines: list[str] | None = None
        self._size = (0, 0)

    def paint(self, lines: Sequence[str], size: tuple[int, int]) -> None:
        """Show ``lines`` in place of those before. ``size`` is the terminal's: when it has changed, where they stood
        is not known any more, and the screen is begun anew."""
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
        """Leave the last frame where it is, and the cursor on a line of its own below it."""
        if self._lines is not None:
            self._write(f"\r\n{_SHOW}")
        self._lines = None


def _rewritten(before: Sequence[str], lines: Sequence[str]) -> str:
    """What makes ``lines`` (at least one) of ``before``; the cursor stands in the last line before and after."""
    out = f"\r\x1b[{len(before) - 1}A" if len(before) > 1 else "\r"
    for index, line in enumerate(lines):
        if index >= len(before):
            # At the bottom of the terminal, only this makes room.
            out += ("\r\n" if index else "") + line
            continue
        out += "\x1b[B" if index else ""
        out += f"\r{line}{_CLEAR_LINE}" if line != before[index] else ""
    return f"{out}\x1b[B\r{_CLEAR_BELOW}\x1b[A" if len(lines) < len(before) else out
