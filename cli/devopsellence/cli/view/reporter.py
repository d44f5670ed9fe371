"""Showing snapshots as they come: a live view on a terminal, lines for what changed in a pipe, objects in JSON."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import FrameType
from typing import NoReturn, Protocol

from devopsellence.cli.output import Output
from devopsellence.cli.view import document, text
from devopsellence.cli.view import task as tasks
from devopsellence.cli.view.rows import Row, rows
from devopsellence.cli.view.snapshot import Snapshot, judge
from devopsellence.cli.view.words import plural


class Reporter(Protocol):
    """Shows snapshots."""

    def show(self, snapshot: Snapshot, number: int) -> None:
        """Show ``snapshot`` while following release ``number``."""


@contextmanager
def reporter(output: Output, operation: str, *, whole: bool) -> Iterator[Reporter]:
    """The reporter that suits ``output``, for the time of a ``with``.

    ``whole``: every JSON object has the whole state, not only what changed.
    """
    if output.live:
        with _live(output) as live:
            yield live
    else:
        yield Lines(output, operation, whole=whole)


class Lines:
    """A line, or a JSON object, whenever something says something else than before; age does not count."""

    def __init__(self, output: Output, operation: str, *, whole: bool) -> None:
        self._output = output
        self._operation = operation
        self._whole = whole
        self._rows: list[Row] = []
        self._headline = ""
        self._task = ""
        self._notes: list[str] = []

    def show(self, snapshot: Snapshot, number: int) -> None:
        """See :class:`Reporter`."""
        now = datetime.now(UTC)
        current = rows(snapshot, now)
        changes = text.changes(self._rows, current)
        headline, notes = _headline(snapshot, number), text.notes(snapshot)
        found = tasks.task_of(snapshot)
        task = f"task {tasks.headline(found)}" if found else ""
        if not changes and (headline, task, notes) == (self._headline, self._task, self._notes):
            return
        if self._output.json:
            changed = [row for row, _ in changes]
            shown = document.status(snapshot, now) if self._whole else _difference(snapshot, changed)
            self._output.event(self._operation, "progress", **shown)
        else:
            lines = [line for _, line in changes]
            lines += [task] if task and task != self._task else []
            lines += [headline] if headline != self._headline else []
            lines += notes if notes != self._notes else []
            for line in lines:
                self._output.line(line)
        self._rows, self._headline, self._task, self._notes = current, headline, task, notes


def _headline(snapshot: Snapshot, number: int) -> str:
    """The rollout in a line that changes only when something happens."""
    verdict = judge(snapshot, number)
    settled, total = document.progress(snapshot)
    line = f"release {number}: {verdict.outcome.value}" if number else "no release yet"
    line += f", {settled}/{plural(total, 'service')}" if total else ""
    if number and snapshot.controllers == 0 and not verdict.final:
        line += "; no controller is running (devopsellence doctor)"
    return f"{line} ({verdict.reason})" if verdict.reason else line


def _difference(snapshot: Snapshot, changed: list[Row]) -> dict[str, object]:
    return {"rollout": document.rollout(snapshot), "changed": [document.row(row) for row in changed]}


@contextmanager
def _live(output: Output) -> Iterator[Reporter]:
    from rich.console import RenderableType
    from rich.live import Live
    from rich.text import Text

    from devopsellence.cli.view import screen

    class OnScreen:
        latest: Snapshot | None = None

        def show(self, snapshot: Snapshot, number: int) -> None:
            self.latest = snapshot
            live.refresh()

        def render(self) -> RenderableType:
            return screen.status(self.latest, datetime.now(UTC)) if self.latest else Text()

    shown = OnScreen()
    # Refreshed by itself so that ages go on; nothing is read for that.
    live = Live(get_renderable=shown.render, console=output.console(), refresh_per_second=4)
    with _terminated_cleanly(), live:
        yield shown


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
