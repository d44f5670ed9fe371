"""Output of a followed rollout in a pipe: text lines for changes, or JSON objects."""

from __future__ import annotations

from datetime import UTC, datetime

from devopsellence.cli.output import Output
from devopsellence.cli.render import groups, json, progress, text
from devopsellence.cli.render import task as tasks
from devopsellence.cli.render.rows import ServiceRow, rows
from devopsellence.cli.store.snapshot import Snapshot, release_verdict
from devopsellence.cli.util.text import collapse_ranges


class LineReporter:
    """Reporter that prints a line, or a JSON object, after every change of state; ages do not count.

    With few nodes, every service has its own lines; with many, nodes with the same change at the same time share a
    line, unless ``everything`` is True. ``whole``: every JSON object contains the whole state, not only the change.
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
        """Show the changes since the previous snapshot, while following release ``number``."""
        now = datetime.now(UTC)
        current = rows(snapshot, now)
        changes = text.changes(self._rows, current)
        line, notes = headline(snapshot, number), text.notes(snapshot, now)
        task_status = tasks.task_of(snapshot)
        task = f"task {tasks.headline(task_status)}" if task_status else ""
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
            lines += [note for note in notes if note not in self._notes]
            for text_line in lines:
                self._output.line(text_line)
        self._rows, self._headline, self._task, self._notes = current, line, task, notes

    def _changes(
        self, snapshot: Snapshot, current: list[ServiceRow], service_lines: list[str], now: datetime
    ) -> list[str]:
        if self._everything or groups.are_few(snapshot):
            return service_lines
        current_groups = groups.groups(snapshot, now, ages=False)
        changes, self._groups = groups.changes(self._groups, current_groups), current_groups
        return [
            f"{collapse_ranges(line.nodes)}: {kind.value}" + (f": {line.text}" if line.text else "")
            for kind, line in changes
        ]


def headline(snapshot: Snapshot, number: int) -> str:
    """Return a line about the rollout, without durations, so that it changes only with the state."""
    verdict = release_verdict(snapshot, number)
    done = progress.progress_text(progress.counts(snapshot.current))
    line = f"release {number}: {text.verdict_text(verdict)}" if number else "no release yet"
    line += f", {done}" if done else ""
    if number and snapshot.controllers == 0 and not verdict.final:
        line += "; no controller is running (devopsellence doctor)"
    return f"{line} ({verdict.reason})" if verdict.reason else line


def _difference(snapshot: Snapshot, changed: list[ServiceRow], now: datetime) -> dict[str, object]:
    return {"rollout": json.rollout(snapshot, now), "changed": [json.row(row) for row in changed]}
