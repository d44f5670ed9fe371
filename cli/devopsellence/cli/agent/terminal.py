"""Local terminal of a session: raw mode, restored at the end, and window size."""

from __future__ import annotations

import os
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

from devopsellence.api.v1.agent_pb2 import WindowSize


@contextmanager
def raw(descriptor: int) -> Iterator[None]:
    """Set raw mode during the block: all keys, even Ctrl-C, are passed on, and nothing is echoed."""
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor, termios.TCSADRAIN)
    try:
        yield
    finally:
        # Drained, not flushed, so that the shell gets characters typed ahead.
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def size(descriptor: int) -> WindowSize | None:
    """Return the window size; None without a terminal, or if the size is unknown."""
    try:
        window = os.get_terminal_size(descriptor)
    except OSError:
        return None
    return WindowSize(columns=window.columns, rows=window.lines) if window.columns and window.lines else None
