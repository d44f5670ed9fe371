"""A snapshot on a terminal: a table, a progress bar, colours."""

from __future__ import annotations

from datetime import datetime

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from devopsellence.api.v1.stored_pb2 import TaskStatus
from devopsellence.cli.view import task as tasks
from devopsellence.cli.view import text
from devopsellence.cli.view.document import progress
from devopsellence.cli.view.rows import Row, rows
from devopsellence.cli.view.snapshot import Outcome, Snapshot, judge

_COLOURS = {
    Outcome.SETTLED: "green",
    Outcome.FAILED: "red",
    Outcome.PROGRESSING: "yellow",
    Outcome.WAITING: "yellow",
    Outcome.SUPERSEDED: "magenta",
}
_TASK_COLOURS = {TaskStatus.SUCCEEDED: "green", TaskStatus.FAILED: "red"}


def status(snapshot: Snapshot, now: datetime) -> RenderableType:
    """The whole snapshot."""
    table = rows(snapshot, now)
    parts: list[RenderableType] = [_head(snapshot, now), Text()]
    parts.append(_table(table) if table else Text("No node is attached.", style="yellow"))
    for row in table:
        parts += [Text(line, style="red" if "last lines" in line else "") for line in text.failure_lines(row)]
    task = tasks.task_of(snapshot)
    parts += [Text(line) for line in (tasks.last_lines(task) if task else [])]
    parts += [Text(line, style="yellow") for line in text.notes(snapshot)]
    return Group(*parts)


def _head(snapshot: Snapshot, now: datetime) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    grid.add_row("Environment", Text(str(snapshot.ref), style="bold"))
    grid.add_row("Release", Text(text.release_line(snapshot, now)))
    if snapshot.number:
        colour = _COLOURS[judge(snapshot, snapshot.number).outcome]
        grid.add_row("Rollout", Text(text.rollout_line(snapshot, now), style=colour))
        settled, total = progress(snapshot)
        if total:
            bar = ProgressBar(total=total, completed=settled, width=40, complete_style=colour, finished_style="green")
            grid.add_row("", Padding(bar, 0))
        if (task := tasks.task_of(snapshot)) is not None:
            grid.add_row("Task", Text(tasks.line(task, now), style=_TASK_COLOURS.get(task.phase, "yellow")))
    return grid


def _table(table: list[Row]) -> Table:
    view = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for name in text.HEADER:
        # The reason takes what is left and wraps; the rest is worth more whole.
        view.add_column(
            name, overflow="fold", no_wrap=name != "REASON", justify="right" if name == "RESTARTS" else "left"
        )
    for row in table:
        cells = [Text(cell) for cell in text.cells(row)]
        cells[2].stylize(_colour(row))
        view.add_row(*cells)
    return view


def _colour(row: Row) -> str:
    if row.failed:
        return "bold red"
    if row.settled:
        return "green"
    return "red" if row.phase == "backoff" else "yellow"
