"""Showing snapshots in a pipe: lines for what changed, or objects in JSON."""

from __future__ import annotations

from datetime import UTC, datetime

from devopsellence.cli.output import Output
from devopsellence.cli.render import groups, json, text
from devopsellence.cli.render import progress as pace
from devopsellence.cli.render import task as tasks
from devopsellence.cli.render.rows import ServiceRow, rows
from devopsellence.cli.store.snapshot import Snapshot, release_verdict
from devopsellence.cli.util.text import collapse_ranges


class LineReporter:
    """A line, or a JSON object, whenever something says something else than before; age does not count.

    Of few nodes each service has lines of its own; of many, nodes that change alike at the same time share one, unless
    ``everything`` is wanted. ``whole``: every JSON object has the whole state, not only what changed.
    """

    every: float | None = None

    def __init__(self, output: Output, operation: str, *, whole: bool, everything: bool) -> None:
        self._output = output
        self._operation = operation
        self._whole = whole
        self._everything = everything
        self._rows: list[ServiceRow] = []
        self._groups: list[groups.NodeGroup] = []
        self._headline = ""
        self._task = ""
        self._notes: list[str] = []

    def show(self, snapshot: Snapshot, number: int) -> None:
        """Show what ``snapshot`` says that the one before did not, while following release ``number``."""
        now = datetime.now(UTC)
        current = rows(snapshot, now)
        changes = text.changes(self._rows, current)
        line, notes = headline(snapshot, number), text.notes(snapshot, now)
        found = tasks.task_of(snapshot)
        task = f"task {tasks.headline(found)}" if found else ""
        if not changes and (line, task, notes) == (self._headline, self._task, self._notes):
            return
        if self._output.json:
            changed = [row for row, _ in changes]
            shown = json.status(snapshot, now) if self._whole else _difference(snapshot, changed, now)
            self._output.event(self._operation, "progress", **shown)
        else:
            lines = self._changes(snapshot, current, [line for _, line in changes], now)
            lines += [task] if task and task != self._task else []
            left = text.time_left(snapshot, now)
            lines += [f"{line}, {left}" if left else line] if line != self._headline else []
            lines += notes if notes != self._notes else []
            for each in lines:
                self._output.line(each)
        self._rows, self._headline, self._task, self._notes = current, line, task, notes

    def _changes(self, snapshot: Snapshot, current: list[ServiceRow], each: list[str], now: datetime) -> list[str]:
        if self._everything or groups.are_few(snapshot):
            return each
        found = groups.groups(snapshot, now, ages=False)
        changes, self._groups = groups.changes(self._groups, found), found
        return [
            f"{collapse_ranges(line.nodes)}: {kind.value}" + (f": {line.text}" if line.text else "")
            for kind, line in changes
        ]


def headline(snapshot: Snapshot, number: int) -> str:
    """The rollout in a line that changes only when something happens."""
    verdict = release_verdict(snapshot, number)
    progress = pace.progress_text(pace.counts(snapshot.current))
    line = f"release {number}: {text.verdict_text(verdict)}" if number else "no release yet"
    line += f", {progress}" if progress else ""
    if number and snapshot.controllers == 0 and not verdict.final:
        line += "; no controller is running (devopsellence doctor)"
    return f"{line} ({verdict.reason})" if verdict.reason else line


def _difference(snapshot: Snapshot, changed: list[ServiceRow], now: datetime) -> dict[str, object]:
    return {"rollout": json.rollout(snapshot, now), "changed": [json.row(row) for row in changed]}
