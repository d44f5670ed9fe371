"""Live screen of an environment on a terminal: table or groups of nodes, progress bar, colours."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from devopsellence.api.v1.stored_pb2 import TaskStatus
from devopsellence.cli.render import ingress, progress, text
from devopsellence.cli.render import task as tasks
from devopsellence.cli.render.groups import NodeGroupKind, are_few, groups
from devopsellence.cli.render.node_state import node_names
from devopsellence.cli.render.rows import ServiceRow, rows
from devopsellence.cli.store.snapshot import RolloutState, Snapshot, release_verdict
from devopsellence.cli.untrusted import safe

_COLOURS: Final = {
    RolloutState.SETTLED: "green",
    RolloutState.FAILED: "red",
    RolloutState.PROGRESSING: "yellow",
    RolloutState.ROLLING_BACK: "red",
    RolloutState.WAITING: "yellow",
    RolloutState.SUPERSEDED: "magenta",
}
_KIND_COLOURS: Final = {
    NodeGroupKind.FAILED: "bold red",
    NodeGroupKind.UNREACHABLE: "red",
    NodeGroupKind.MOVING: "yellow",
    NodeGroupKind.PENDING: "yellow",
    NodeGroupKind.WAITING: "cyan",
    NodeGroupKind.SETTLED: "green",
}
_TASK_COLOURS: Final = {TaskStatus.SUCCEEDED: "green", TaskStatus.FAILED: "red"}
_BAR: Final = 30


def status(snapshot: Snapshot, now: datetime, width: int, *, everything: bool = False) -> RenderableType:
    """Return the whole snapshot without a limit of height; many nodes in groups unless ``everything`` is True."""
    parts: list[RenderableType] = [_head(snapshot, now), Text()]
    if not node_names(snapshot):
        parts.append(Text("No node is attached.", style="yellow"))
    elif everything or are_few(snapshot):
        table = rows(snapshot, now)
        parts.append(_table(table))
        parts += [_failure_text(line) for row in table for line in text.failure_lines(row)]
    else:
        parts.append(_groups(snapshot, now, width))
    parts += [_failure_text(line) for line in text.release_failure_lines(snapshot)]
    return Group(*parts, *_foot(snapshot, now))


def frame(console: Console, snapshot: Snapshot, now: datetime, *, everything: bool = False) -> list[str]:
    """Return the snapshot as lines that fit the console, with control codes for colours only.

    If the table does not fit, nodes are shown in groups; lines beyond the height are cut and counted.
    """
    width, height = max(20, console.width - 1), max(4, console.height - 1)
    if everything or are_few(snapshot):
        lines = _lines(console, status(snapshot, now, width, everything=everything), width)
        if len(lines) <= height:
            return lines
        if everything:
            return [*lines[: height - 1], f"… {len(lines) - height + 1} more lines: devopsellence status --all"]
    head = _lines(console, Group(_head(snapshot, now), Text()), width)
    foot = _lines(console, Group(*_foot(snapshot, now)), width)
    room = max(1, height - len(head) - len(foot))
    lines = _lines(console, _groups(snapshot, now, width, room), width)
    return [*head, *lines[:room], *foot][:height]


def _lines(console: Console, renderable: RenderableType, width: int) -> list[str]:
    with console.capture() as capture:
        console.print(renderable, width=width)
    return [line.rstrip() for line in capture.get().splitlines()]


def _foot(snapshot: Snapshot, now: datetime) -> list[RenderableType]:
    task = tasks.task_of(snapshot)
    foot: list[RenderableType] = [Text(line) for line in (tasks.last_lines(task) if task else [])]
    below = [*text.notes(snapshot, now), *text.pending_lines(snapshot)]
    return foot + [Text(line, style="yellow") for line in below]


def _head(snapshot: Snapshot, now: datetime) -> RenderableType:
    # As wide as the terminal, so that a longer line does not change the rest.
    grid = Table.grid(padding=(0, 2), expand=True)
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(ratio=1)
    grid.add_row("Environment", Text(str(snapshot.ref), style="bold"))
    grid.add_row("Release", Text(text.release_line(snapshot, now)))
    if snapshot.number:
        verdict, counts = release_verdict(snapshot, snapshot.number), progress.counts(snapshot.current)
        colour = _COLOURS[verdict.outcome]
        line = ", ".join(filter(None, [text.rollout_time(snapshot, now), text.time_left(snapshot, now)]))
        grid.add_row("Rollout", Text(f"{line}: {safe(verdict.reason)}" if verdict.reason else line, style=colour))
        if counts.nodes:
            done = 1.0 if verdict.outcome is RolloutState.SETTLED else counts.share
            bar = ProgressBar(1.0, done, width=_BAR, complete_style=colour, finished_style="green")
            beside = Table.grid(padding=(0, 2))
            beside.add_row(bar, Text(progress.progress_text(counts)))
            grid.add_row("", beside)
        if running := text.running_line(snapshot, now):
            grid.add_row("Runs", Text(running, style="bold"))
        if (task := tasks.task_of(snapshot)) is not None:
            grid.add_row("Task", Text(tasks.status_line(task, now), style=_TASK_COLOURS.get(task.phase, "yellow")))
        if where := ingress.address_line(snapshot):
            grid.add_row("Ingress", Text(where))
    return grid


def _groups(snapshot: Snapshot, now: datetime, width: int, room: int | None = None) -> RenderableType:
    """Return the lines of the groups, cut to the width, then the last log lines of failed services."""
    node_groups = groups(snapshot, now)
    lines: list[RenderableType] = []
    for group, head, rest in text.group_lines(node_groups, room=room, width=width):
        line = Text(head, style=_KIND_COLOURS[group.kind], no_wrap=room is not None, overflow="ellipsis")
        lines.append(line.append(rest, style="not bold default"))
    return Group(*lines, *[_failure_text(line) for line in text.failure_output(node_groups)])


def _failure_text(line: str) -> Text:
    return Text(line, style="red" if "last lines" in line else "")


def _table(table: list[ServiceRow]) -> Table:
    view = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for name in text.HEADER:
        # The reason takes the remaining width and wraps; the rest stays on a single line.
        view.add_column(
            name, overflow="fold", no_wrap=name != "REASON", justify="right" if name == "RESTARTS" else "left"
        )
    for row in table:
        cells = [Text(cell) for cell in text.cells(row)]
        cells[2].stylize(_colour(row))
        view.add_row(*cells)
    return view


def _colour(row: ServiceRow) -> str:
    if row.failed:
        return "bold red"
    if row.settled:
        return "green"
    if row.waiting:
        return "cyan"
    return "red" if row.phase == "backoff" else "yellow"
