"""Frames drawn by the terminal painter."""

from __future__ import annotations

import re

import pytest

from devopsellence.cli.render.terminal import Painter

_CODES = re.compile(r"\x1b\[(\??\d*)([A-Za-z])|(\r)|(\n)|([^\x1b\r\n]+)")


class Terminal:
    """Minimal terminal emulator; fails at an unknown control code."""

    def __init__(self, height: int = 10, *before: str) -> None:
        self.height = height
        self.lines = [*before, ""]
        self.scrolled = 0
        self.row, self.column = len(before), 0
        self.writes: list[str] = []
        self.cursor = True

    def write(self, text: str) -> None:
        self.writes.append(text)
        at = 0
        while at < len(text):
            match = _CODES.match(text, at)
            assert match, text[at:]
            at = match.end()
            self._do(match)

    def seen(self) -> list[str]:
        """Return the lines down to the cursor, and non-empty lines below."""
        shown = [line.rstrip() for line in self.lines]
        while len(shown) > self.row + 1 and not shown[-1]:
            shown.pop()
        return shown

    def _do(self, match: re.Match[str]) -> None:
        argument, code, carriage, newline, plain = match.groups()
        if carriage:
            self.column = 0
        elif newline:
            self.row += 1
            if self.row == self.height:
                self.scrolled += 1
                self.row -= 1
                self.lines.pop(0)
            while len(self.lines) <= self.row:
                self.lines.append("")
        elif plain:
            line = self.lines[self.row].ljust(self.column)
            self.lines[self.row] = line[: self.column] + plain + line[self.column + len(plain) :]
            self.column += len(plain)
        elif code in "lh":
            self.cursor = code == "h"
        else:
            self._move(argument, code)

    def _move(self, argument: str, code: str) -> None:
        if code == "A":
            self.row -= int(argument or 1)
            assert self.row >= 0, "above the top"
        elif code == "B":
            self.row = min(self.row + int(argument or 1), self.height - 1)
        elif code == "K":
            self.lines[self.row] = self.lines[self.row][: self.column]
        elif code == "J" and argument == "2":
            self.lines = [""] * len(self.lines)
        elif code == "J":
            self.lines[self.row :] = [self.lines[self.row][: self.column]]
        elif code == "H":
            self.row = self.column = 0
        else:
            raise AssertionError(code)


SIZE = (80, 10)


@pytest.mark.parametrize(
    "frames",
    [
        [["one", "two", "three"], ["one", "2", "three"]],
        [["one", "two"], ["one", "two", "three", "four"]],
        [["one", "two", "three", "four"], ["one", "two"]],
        [["one", "two", "three"], ["1"], ["1", "2", "3", "4", "5"]],
        [["long line", "x"], ["short", "x"]],
        [["one"], ["one"], ["two"]],
        [[str(number) for number in range(9)], [str(number * 2) for number in range(9)], ["end"]],
    ],
    ids=["one differs", "grows", "shrinks", "both", "shorter line", "the same", "all there is"],
)
def test_last_frame_is_visible_below_earlier_output(frames: list[list[str]]) -> None:
    terminal = Terminal(12, "$ devopsellence status --watch")
    painter = Painter(terminal.write)
    for frame in frames:
        painter.paint(frame, SIZE)
        assert terminal.seen() == ["$ devopsellence status --watch", *frame]
    assert not terminal.cursor
    painter.close()
    assert terminal.seen() == ["$ devopsellence status --watch", *frames[-1], ""]
    assert (terminal.row, terminal.column, terminal.cursor) == (len(frames[-1]) + 1, 0, True)


def test_frame_at_the_bottom_scrolls_once() -> None:
    terminal = Terminal(4, "$ one", "$ two", "$ three")
    painter = Painter(terminal.write)
    for text in ("a", "b", "c"):
        painter.paint([text, "same", text], SIZE)
        assert terminal.seen()[-3:] == [text, "same", text]
    assert terminal.scrolled == 2


def test_only_changed_lines_are_written() -> None:
    terminal = Terminal()
    painter = Painter(terminal.write)
    painter.paint(["unchanged", "age 1s"], SIZE)
    painter.paint(["unchanged", "age 2s"], SIZE)
    painter.paint(["unchanged", "age 2s"], SIZE)
    assert len(terminal.writes) == 2
    assert "unchanged" not in terminal.writes[1]


def test_resized_terminal_is_redrawn() -> None:
    terminal = Terminal(10, "before")
    painter = Painter(terminal.write)
    painter.paint(["one", "two"], SIZE)
    painter.paint(["one", "two"], (40, 10))
    assert terminal.seen()[:2] == ["one", "two"]
    assert "before" not in terminal.seen()


def test_no_frame_writes_nothing() -> None:
    terminal = Terminal()
    Painter(terminal.write).close()
    assert terminal.writes == []
