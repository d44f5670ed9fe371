"""Reporters for followed rollouts: a live view on a terminal, text lines in a pipe, JSON objects."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final, Protocol

from devopsellence.cli.output import Output
from devopsellence.cli.render.lines import LineReporter
from devopsellence.cli.store.snapshot import Snapshot

# Seconds between updates of the ages in a live view.
_TICK: Final = 1.0


class Reporter(Protocol):
    """Display of snapshots; ``every`` is the interval in seconds for showing an unchanged snapshot again, or None."""

    every: float | None

    def show(self, snapshot: Snapshot, number: int) -> None:
        """Show ``snapshot`` while following release ``number``."""


@contextmanager
def reporter(output: Output, operation: str, *, whole: bool, everything: bool = False) -> Iterator[Reporter]:
    """Return the reporter for ``output``; a context manager.

    ``whole``: every JSON object contains the whole state, not only the change. ``everything``: show every service of
    every node, even with many nodes.
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
    try:
        yield OnScreen()
    finally:
        painter.close()
