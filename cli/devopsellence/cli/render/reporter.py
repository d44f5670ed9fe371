"""Showing snapshots as they come: a live view on a terminal, lines for what changed in a pipe, objects in JSON."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import FrameType
from typing import Final, NoReturn, Protocol

from devopsellence.cli.output import Output
from devopsellence.cli.render.lines import LineReporter
from devopsellence.cli.store.snapshot import Snapshot

# How often ages move on in a live view although nothing happens, in seconds.
_TICK: Final = 1.0


class Reporter(Protocol):
    """Shows snapshots. ``every`` is after how many seconds it wants to show the same one again, None for never."""

    every: float | None

    def show(self, snapshot: Snapshot, number: int) -> None:
        """Show ``snapshot`` while following release ``number``."""


@contextmanager
def reporter(output: Output, operation: str, *, whole: bool, everything: bool = False) -> Iterator[Reporter]:
    """The reporter that suits ``output``, for the time of a ``with``.

    ``whole``: every JSON object has the whole state, not only what changed. ``everything``: many nodes are not folded.
    """
    if output.live:
        with _live(output, everything=everything) as live:
            yield live
    else:
        yield LineReporter(output, operation, whole=whole, everything=everything)


@contextmanager
def _live(output: Output, *, everything: bool) -> Iterator[Reporter]:
    from devopsellence.cli.render import screen
    from devopsellence.cli.render.terminal import Painter

    console = output.console()

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    class OnScreen:
        every: float | None = _TICK

        def show(self, snapshot: Snapshot, number: int) -> None:
            size = console.size
            painter.paint(
                screen.frame(console, snapshot, datetime.now(UTC), everything=everything), (size.width, size.height)
            )

    painter = Painter(write)
    with _terminated_cleanly():
        try:
            yield OnScreen()
        finally:
            painter.close()


@contextmanager
def _terminated_cleanly() -> Iterator[None]:
    """SIGTERM ends the process through ``finally``, so that the terminal gets its cursor back."""

    def leave(_signal: int, _frame: FrameType | None) -> NoReturn:
        sys.exit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
