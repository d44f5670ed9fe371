"""A snapshot as plain text: for a pipe, a file, a CI log."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from devopsellence.api.v1.stored_pb2 import Release
from devopsellence.cli.view import task as tasks
from devopsellence.cli.view.document import progress
from devopsellence.cli.view.rows import Row, rows
from devopsellence.cli.view.snapshot import Outcome, Snapshot, judge
from devopsellence.cli.view.words import age, columns, plural, safe, seconds_between, since, span

HEADER = ("NODE", "SERVICE", "PHASE", "HEALTH", "AGE", "RESTARTS", "ADDRESS", "REASON")
_SPANS = {Outcome.SETTLED: "in", Outcome.FAILED: "after"}


def status(snapshot: Snapshot, now: datetime) -> str:
    """The whole snapshot."""
    lines = [f"Environment  {snapshot.ref}", f"Release      {release_line(snapshot, now)}"]
    if snapshot.number:
        lines.append(f"Rollout      {rollout_line(snapshot, now)}")
    task = tasks.task_of(snapshot)
    lines += [f"Task         {tasks.line(task, now)}"] if task else []
    table = rows(snapshot, now)
    lines += ["", columns(HEADER, [cells(row) for row in table])] if table else ["", "No node is attached."]
    for row in table:
        lines += failure_lines(row)
    lines += tasks.last_lines(task) if task else []
    lines += notes(snapshot)
    return "\n".join(lines)


def release_line(snapshot: Snapshot, now: datetime) -> str:
    """The newest release in a line: ``3 (a1b2c3d, by ann@laptop, 2m ago): message``."""
    if not snapshot.number:
        return "none yet; run devopsellence deploy"
    release = snapshot.release
    if release is None:
        return f"{snapshot.number} (cannot be read)"
    return f"{release.number} ({', '.join(release_facts(release, now))})" + (
        f": {safe(release.message)}" if release.message else ""
    )


def release_facts(release: Release, now: datetime) -> list[str]:
    """What is known of a release besides its number and message."""
    created = since(release.created_at, now)
    facts = [
        safe(release.revision),
        f"by {safe(release.created_by)}" if release.created_by else "",
        f"{created} ago" if created else "",
        f"repeats release {release.rollback_of}" if release.rollback_of else "",
    ]
    return [fact for fact in facts if fact] or ["nothing known"]


def rollout_line(snapshot: Snapshot, now: datetime) -> str:
    """How the newest release fares in a line: ``settled in 4s, 2/2 services``."""
    verdict = judge(snapshot, snapshot.number)
    found = snapshot.rollout
    settled, total = progress(snapshot)
    text = verdict.outcome.value
    if verdict.outcome is Outcome.WAITING:
        return f"{text} for the controller" + ("" if snapshot.controllers != 0 else "; none is running")
    if found is not None and found.started_at.seconds:
        end = found.finished_at.ToDatetime(tzinfo=now.tzinfo) if found.finished_at.seconds else None
        taken = span(seconds_between(found.started_at, end or now))
        text += f" {_SPANS.get(verdict.outcome, 'for')} {taken}"
    text += f", {settled}/{plural(total, 'service')}" if total else ""
    return f"{text}: {safe(verdict.reason)}" if verdict.reason else text


def cells(row: Row) -> list[str]:
    """A row as the table's cells, in the order of :data:`HEADER`."""
    return [
        row.node,
        row.service or "-",
        "failed" if row.failed else row.phase,
        _health(row),
        "-" if row.age is None else age(row.age),
        str(row.restarts),
        row.address or "-",
        row.reason,
    ]


def _health(row: Row) -> str:
    if row.health in ("", "unknown"):
        return "-"
    return row.health if row.unhealthy is None else f"{row.health} {age(row.unhealthy)}"


def failure_lines(row: Row) -> list[str]:
    """How a service that does not run ended, with its last lines; nothing for one that runs."""
    if row.settled or (row.exit_code is None and not row.log_lines):
        return []
    code = "ended" if row.exit_code is None else f"exit code {row.exit_code}"
    memory = ", out of memory" if row.oom_killed else ""
    last = "; its last lines:" if row.log_lines else ""
    return ["", f"{row.node}/{row.service}: {code}{memory}{last}", *[f"    {line}" for line in row.log_lines]]


def notes(snapshot: Snapshot) -> list[str]:
    """What makes the rest doubtful: keys that cannot be read, a connection that is gone."""
    lines = [f"Cannot read {problem.key}: {safe(problem.reason)}" for problem in snapshot.problems]
    lines += [safe(warning) for warning in snapshot.warnings]
    if snapshot.stale:
        lines.append(f"What is shown may be old: {safe(snapshot.stale)}")
    return ["", *lines] if lines else []


def row_line(row: Row) -> str:
    """A row as a line of its own, as a log shows changes: ``n1 web: running, healthy, http://…``."""
    state = ["failed" if row.failed else row.phase]
    if row.health not in ("", "none", "unknown"):
        state.append(row.health)
    if row.restarts:
        state.append(plural(row.restarts, "restart"))
    if row.settled and row.address:
        state.append(row.address)
    text = f"{row.node} {row.service}: {', '.join(state)}" if row.service else f"{row.node}: {row.phase}"
    return f"{text} ({row.reason})" if row.reason else text


def changes(before: Sequence[Row], after: Sequence[Row]) -> list[tuple[Row, str]]:
    """The rows that say something else than ``before``, each with its line; age does not count. Last those gone."""
    known = {(row.node, row.service): row_line(row) for row in before}
    there = {(row.node, row.service) for row in after}
    found = [(row, row_line(row)) for row in after if known.get((row.node, row.service)) != row_line(row)]
    gone = [row for row in before if row.service and (row.node, row.service) not in there]
    return found + [(row, f"{row.node} {row.service}: gone") for row in gone]
