"""A snapshot as plain text: for a pipe, a file, a CI log."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from devopsellence.api.v1.stored_pb2 import Release
from devopsellence.cli.render import ingress, progress
from devopsellence.cli.render import task as tasks
from devopsellence.cli.render.groups import NodeGroup, are_few, groups, line_limits
from devopsellence.cli.render.node_state import node_names
from devopsellence.cli.render.rows import ServiceRow, rows
from devopsellence.cli.store.snapshot import ReleaseVerdict, RolloutState, Snapshot, release_verdict
from devopsellence.cli.util.text import age, collapse_ranges, columns, plural, safe, seconds_between, since, span

HEADER = ("NODE", "SERVICE", "PHASE", "HEALTH", "AGE", "RESTARTS", "ADDRESS", "REASON")
_SPANS = {RolloutState.SETTLED: "in", RolloutState.FAILED: "after"}
# How long lines that stand for many nodes become where nothing else limits them, and the names' share of that.
_WIDTH: Final = 150
_NAMES: Final = 0.4
# Of so many services that failed, the last lines are shown.
_ENDS: Final = 3


def status(snapshot: Snapshot, now: datetime, *, everything: bool = False) -> str:
    """The whole snapshot: many nodes in groups, unless ``everything`` is wanted."""
    lines = [f"Environment  {snapshot.ref}", f"Release      {release_line(snapshot, now)}"]
    if snapshot.number:
        lines.append(f"Rollout      {rollout_line(snapshot, now)}")
    if running := running_line(snapshot, now):
        lines.append(f"Runs         {running}")
    task = tasks.task_of(snapshot)
    lines += [f"Task         {tasks.status_line(task, now)}"] if task else []
    where = ingress.address_line(snapshot)
    lines += [f"Ingress      {where}"] if where else []
    if not node_names(snapshot):
        lines += ["", "No node is attached."]
    elif everything or are_few(snapshot):
        table = rows(snapshot, now)
        lines += ["", columns(HEADER, [cells(row) for row in table])]
        lines += [line for row in table for line in failure_lines(row)]
    else:
        found = groups(snapshot, now)
        lines += ["", *[f"{head}{tail}" for _, head, tail in group_lines(found)], *failure_output(found)]
    lines += tasks.last_lines(task) if task else []
    lines += notes(snapshot, now)
    return "\n".join(lines)


def group_lines(
    found: Sequence[NodeGroup], *, room: int | None = None, width: int = _WIDTH
) -> list[tuple[NodeGroup, str, str]]:
    """Groups as lines: each with its group, its heading (empty after the group's first), and the rest.

    At most ``room`` lines if there is room for one a group. What is to be said of nodes leaves their names a part of
    ``width``.
    """
    shown = []
    digits = max((len(str(len(group.nodes))) for group in found), default=0)
    for group, given in zip(found, line_limits(found, room), strict=True):
        head = f"{group.kind.value:<11}  {len(group.nodes):>{digits}}  "
        for line in group.within(given):
            names = collapse_ranges(line.nodes, int(width * _NAMES) if line.text else width - len(head))
            shown.append((group, head, f"{names}: {line.text}" if line.text else names))
            head = " " * len(head)
    return shown


def failure_output(found: Sequence[NodeGroup]) -> list[str]:
    """How what failed ended, once for what ended alike; the first few."""
    ends: dict[tuple[str, ...], list[str]] = {}
    for row in (row for group in found for row in group.rows):
        if lines := failure_lines(row):
            ends.setdefault((row.service, *lines[2:]), lines)
    return [line for lines in list(ends.values())[:_ENDS] for line in lines]


def release_line(snapshot: Snapshot, now: datetime) -> str:
    """The newest release in a line: ``3 (a1b2c3d, by ann@laptop, 2m ago): message``."""
    if not snapshot.number:
        return "none yet; run devopsellence deploy"
    return _release_line(snapshot.number, snapshot.release, now)


def running_line(snapshot: Snapshot, now: datetime) -> str:
    """The release that the environment is to run in place of the newest, as :func:`release_line`; "" if none is."""
    if snapshot.target == snapshot.number:
        return ""
    return _release_line(snapshot.target, snapshot.numbered(snapshot.target), now)


def _release_line(number: int, release: Release | None, now: datetime) -> str:
    if release is None:
        return f"{number} (cannot be read)"
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
    verdict = release_verdict(snapshot, snapshot.number)
    parts = [
        rollout_time(snapshot, now),
        progress.progress_text(progress.counts(snapshot.current)),
        time_left(snapshot, now),
    ]
    text = ", ".join(part for part in parts if part)
    return f"{text}: {safe(verdict.reason)}" if verdict.reason else text


def rollout_time(snapshot: Snapshot, now: datetime) -> str:
    """How the newest release stands, and how long it took, or has taken: ``settled in 4s``."""
    verdict, found = release_verdict(snapshot, snapshot.number), snapshot.current
    text = verdict_text(verdict)
    if verdict.outcome is RolloutState.WAITING:
        return f"{text} for the controller" + ("" if snapshot.controllers != 0 else "; none is running")
    if found is None or not found.started_at.seconds:
        return text
    end = found.finished_at.ToDatetime(tzinfo=now.tzinfo) if found.finished_at.seconds else now
    return f"{text} {_SPANS.get(verdict.outcome, 'for')} {span(seconds_between(found.started_at, end))}"


def time_left(snapshot: Snapshot, now: datetime) -> str:
    """An estimate of how long it will go on, in words; "" where there is nothing to go by."""
    if snapshot.current is None:
        return ""
    # They wait for something else than their turn.
    apart = sum(1 for node in snapshot.nodes.values() if node.cordoned)
    left = progress.seconds_left(snapshot.current, now, apart=apart)
    return progress.time_left_text(left) if left is not None else ""


def verdict_text(verdict: ReleaseVerdict) -> str:
    """A verdict in a word, or a few while nodes go back."""
    if verdict.outcome is RolloutState.ROLLING_BACK:
        return f"failed, going back to release {verdict.rolled_back_to}"
    return str(verdict.outcome.value)


def cells(row: ServiceRow) -> list[str]:
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


def _health(row: ServiceRow) -> str:
    if row.health in ("", "unknown"):
        return "-"
    return row.health if row.unhealthy is None else f"{row.health} {age(row.unhealthy)}"


def failure_lines(row: ServiceRow) -> list[str]:
    """How a service that does not run ended, with its last lines; nothing for one that runs."""
    if row.settled or (row.exit_code is None and not row.log_lines):
        return []
    code = "ended" if row.exit_code is None else f"exit code {row.exit_code}"
    memory = ", out of memory" if row.oom_killed else ""
    last = "; its last lines:" if row.log_lines else ""
    return ["", f"{row.node}/{row.service}: {code}{memory}{last}", *[f"    {line}" for line in row.log_lines]]


def notes(snapshot: Snapshot, now: datetime) -> list[str]:
    """What is wrong with the ingress, and what makes the rest doubtful: keys that cannot be read, a lost connection."""
    lines = ingress.problem_lines(ingress.ingress_problems(snapshot, now))
    lines += [f"Cannot read {problem.key}: {safe(problem.reason)}" for problem in snapshot.problems]
    lines += [safe(warning) for warning in snapshot.warnings]
    if snapshot.stale:
        lines.append(f"What is shown may be old: {safe(snapshot.stale)}")
    return ["", *lines] if lines else []


def row_line(row: ServiceRow) -> str:
    """A row as a line of its own, as a log shows changes: ``n1 web: running, healthy, http://…``."""
    return f"{row.node} {row.service}: {_state(row)}" if row.service else f"{row.node}: {_state(row)}"


def changes(before: Sequence[ServiceRow], after: Sequence[ServiceRow]) -> list[tuple[ServiceRow, str]]:
    """The rows that say something else than ``before``, each with its line; age does not count. Last those gone."""
    known = {(row.node, row.service): row_line(row) for row in before}
    there = {(row.node, row.service) for row in after}
    found = [(row, row_line(row)) for row in after if known.get((row.node, row.service)) != row_line(row)]
    gone = [row for row in before if row.service and (row.node, row.service) not in there]
    return found + [(row, f"{row.node} {row.service}: gone") for row in gone]


def _state(row: ServiceRow) -> str:
    state = ["failed" if row.failed else row.phase]
    if row.health not in ("", "none", "unknown"):
        state.append(row.health)
    if row.restarts:
        state.append(plural(row.restarts, "restart"))
    if row.settled and row.address:
        state.append(row.address)
    text = ", ".join(state)
    return f"{text} ({row.reason})" if row.reason else text
