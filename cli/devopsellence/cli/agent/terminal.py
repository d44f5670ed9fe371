"""The terminal on this side of a session: raw while it lasts, restored whatever happens, and how large it is."""

from __future__ import annotations

import os
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

from devopsellence.api.v1.agent_pb2 import WindowSize


@contextmanager
def raw(descriptor: int) -> Iterator[None]:
    """Every key goes through as it is, Ctrl-C too, and nothing is echoed here."""
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor, termios.TCSADRAIN)
    try:
        yield
    finally:
        # Drained, not flushed: what was typed ahead is the shell's.
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def size(descriptor: int) -> WindowSize | None:
    """None where there is no terminal, or one that does not know."""
    try:
        found = os.get_terminal_size(descriptor)
    except OSError:
        return None
    return WindowSize(columns=found.columns, rows=found.lines) if found.columns and found.lines else None
