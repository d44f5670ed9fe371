"""State of the release task of the newest release, as text and JSON."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from devopsellence.api.v1.stored_pb2 import TaskStatus
from devopsellence.cli.store.snapshot import Snapshot
from devopsellence.cli.untrusted import safe
from devopsellence.cli.util.text import iso, seconds_between, span, word


def task_of(snapshot: Snapshot) -> TaskStatus | None:
    """Return the status of the newest release's task; None if there is no release task."""
    rollout = snapshot.rollout
    if rollout is None or rollout.release != snapshot.number or not rollout.HasField("task"):
        return None
    return rollout.task


def headline(task: TaskStatus) -> str:
    """Return a line without durations, which changes only with the state: ``release on n1: failed: exit code 3``."""
    where = f" on {task.node}" if task.node else ""
    text = f"{task.name}{where}: {word(TaskStatus.Phase, task.phase)}"
    return f"{text}: {safe(task.reason)}" if task.reason else text


def status_line(task: TaskStatus, now: datetime) -> str:
    """Return the headline with the duration so far: ``release on n1: succeeded in 4.2s``."""
    if not task.started_at.seconds:
        return headline(task)
    end = task.finished_at.ToDatetime(tzinfo=now.tzinfo) if task.finished_at.seconds else now
    duration = span(seconds_between(task.started_at, end))
    phase = word(TaskStatus.Phase, task.phase)
    preposition = {TaskStatus.RUNNING: "for", TaskStatus.SUCCEEDED: "in"}.get(task.phase, "after")
    return headline(task).replace(f": {phase}", f": {phase} {preposition} {duration}", 1)


def last_lines(task: TaskStatus) -> list[str]:
    """Return the last log lines of a failed task; an empty list for any other."""
    if task.phase != TaskStatus.FAILED or not task.exit.log_lines:
        return []
    lines = [f"    {safe(log_line)}" for log_line in task.exit.log_lines]
    return ["", f"task {task.name} on {task.node}: last lines:", *lines]


def document(task: TaskStatus) -> dict[str, Any]:
    """Return the JSON form."""
    end = task.exit if task.HasField("exit") else None
    return {
        "name": task.name,
        "service": task.service,
        "node": task.node,
        "release": task.release,
        "phase": word(TaskStatus.Phase, task.phase),
        "reason": task.reason,
        "exit_code": end.code if end is not None and end.HasField("code") else None,
        "log_lines": [safe(log_line) for log_line in end.log_lines] if end is not None else [],
        "started_at": iso(task.started_at),
        "finished_at": iso(task.finished_at),
    }
