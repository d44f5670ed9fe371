"""Plain text of a snapshot, for pipes, files and CI logs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from devopsellence.api.v1.stored_pb2 import Release
from devopsellence.cli.render import ingress, progress
from devopsellence.cli.render import task as tasks
from devopsellence.cli.render.groups import NodeGroup, are_few, groups, line_limits
from devopsellence.cli.render.node_state import node_names
from devopsellence.cli.render.reasons import unexplained
from devopsellence.cli.render.rows import ServiceRow, pending_of, rows
from devopsellence.cli.store.snapshot import ReleaseVerdict, RolloutState, Snapshot, release_verdict
from devopsellence.cli.untrusted import safe
from devopsellence.cli.util.text import age, collapse_ranges, columns, plural, seconds_between, since, span
from devopsellence.exits import describe_exit

HEADER = ("NODE", "SERVICE", "PHASE", "HEALTH", "AGE", "RESTARTS", "ADDRESS", "REASON")
_SPANS = {RolloutState.SETTLED: "in", RolloutState.FAILED: "after"}
# Maximum length of a line about many nodes without a terminal, and the share of the names.
_WIDTH: Final = 150
_NAMES: Final = 0.4
# Maximum number of failed services with their last log lines.
_ENDS: Final = 3


def status(snapshot: Snapshot, now: datetime, *, everything: bool = False) -> str:
    """Return the whole snapshot as text; many nodes in groups unless ``everything`` is True."""
    pending = pending_lines(snapshot)
    return "\n".join(
        [*_body(snapshot, now, everything=everything), *notes(snapshot, now), *([""] if pending else []), *pending]
    )


def _body(snapshot: Snapshot, now: datetime, *, everything: bool = False) -> list[str]:
    """Return the lines of a snapshot above its notes."""
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
        node_groups = groups(snapshot, now)
        lines += ["", *[f"{head}{tail}" for _, head, tail in group_lines(node_groups)], *failure_output(node_groups)]
    lines += release_failure_lines(snapshot)
    return lines + (tasks.last_lines(task) if task else [])


def group_lines(
    groups: Sequence[NodeGroup], *, room: int | None = None, width: int = _WIDTH
) -> list[tuple[NodeGroup, str, str]]:
    """Return the lines of groups as (group, heading, text); the heading is blank after the first line of a group.

    At most ``room`` lines, but at least one per group. Names take at most a part of ``width`` beside a text.
    """
    shown = []
    digits = max((len(str(len(group.nodes))) for group in groups), default=0)
    for group, limit in zip(groups, line_limits(groups, room), strict=True):
        head = f"{group.kind.value:<11}  {len(group.nodes):>{digits}}  "
        for line in group.within(limit):
            names = collapse_ranges(line.nodes, int(width * _NAMES) if line.text else width - len(head))
            shown.append((group, head, f"{names}: {line.text}" if line.text else names))
            head = " " * len(head)
    return shown


def failure_output(groups: Sequence[NodeGroup]) -> list[str]:
    """Return exit codes and last log lines of failed services; equal ones once, the first few only."""
    ends: dict[tuple[str, ...], list[str]] = {}
    for row in (row for group in groups for row in group.rows):
        if lines := failure_lines(row):
            ends.setdefault((row.service, *lines[2:]), lines)
    return [line for lines in list(ends.values())[:_ENDS] for line in lines]


def release_line(snapshot: Snapshot, now: datetime) -> str:
    """Return the newest release as a line: ``3 (a1b2c3d, by ann@laptop, 2m ago): message``."""
    if not snapshot.number:
        return "none yet; run devopsellence deploy"
    return _release_line(snapshot.number, snapshot.release, now)


def running_line(snapshot: Snapshot, now: datetime) -> str:
    """Return the rollout target as :func:`release_line` if it is not the newest release; else ""."""
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
    """Return revision, author, age and origin of a release, as far as known."""
    created = since(release.created_at, now)
    facts = [
        safe(release.revision),
        f"by {safe(release.created_by)}" if release.created_by else "",
        f"{created} ago" if created else "",
        f"repeats release {release.rollback_of}" if release.rollback_of else "",
    ]
    return [fact for fact in facts if fact] or ["nothing known"]


def rollout_line(snapshot: Snapshot, now: datetime) -> str:
    """Return the state of the newest rollout as a line: ``settled in 4s, 2/2 services``."""
    verdict = release_verdict(snapshot, snapshot.number)
    parts = [
        rollout_time(snapshot, now),
        progress.progress_text(progress.counts(snapshot.current)),
        time_left(snapshot, now),
    ]
    text = ", ".join(part for part in parts if part)
    rollout = snapshot.current
    reason = verdict.reason
    if not reason and rollout is not None and rollout.first_failure:
        reason = f"but in its first minute {rollout.first_failure}"
    return f"{text}: {safe(reason)}" if reason else text


def rollout_time(snapshot: Snapshot, now: datetime) -> str:
    """Return the state and the duration of the newest rollout: ``settled in 4s``."""
    verdict, rollout = release_verdict(snapshot, snapshot.number), snapshot.current
    text = verdict_text(verdict)
    if verdict.outcome is RolloutState.WAITING:
        return f"{text} for the controller" + ("" if snapshot.controllers != 0 else "; none is running")
    if rollout is None or not rollout.started_at.seconds:
        return text
    end = rollout.finished_at.ToDatetime(tzinfo=now.tzinfo) if rollout.finished_at.seconds else now
    return f"{text} {_SPANS.get(verdict.outcome, 'for')} {span(seconds_between(rollout.started_at, end))}"


def time_left(snapshot: Snapshot, now: datetime) -> str:
    """Return the estimate of the time left as text; "" without a basis for an estimate."""
    if snapshot.current is None:
        return ""
    # Cordoned nodes do not wait for their batch.
    not_participating = sum(1 for node in snapshot.nodes.values() if node.cordoned)
    left = progress.seconds_left(snapshot.current, now, not_participating=not_participating)
    return progress.time_left_text(left) if left is not None else ""


def verdict_text(verdict: ReleaseVerdict) -> str:
    """Return the state of a rollout in a word, or a few words during a rollback."""
    if verdict.outcome is RolloutState.ROLLING_BACK:
        return f"failed, rolling back to release {verdict.rolled_back_to}"
    return str(verdict.outcome.value)


def cells(row: ServiceRow) -> list[str]:
    """Return the table cells of a row, in the order of :data:`HEADER`."""
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
    """Return the exit code (or bad health) and the last log lines of a failed service; an empty list for a settled
    service."""
    if row.settled or (row.exit_code is None and not row.log_lines):
        return []
    if row.last_unhealthy:
        end = row.last_unhealthy
    elif row.exit_code is None:
        end = "exited"
    else:
        end = describe_exit(row.exit_code, oom_killed=row.oom_killed)
    last = "; last lines:" if row.log_lines else ""
    return ["", f"{row.node}/{row.service}: {end}{last}", *[f"    {line}" for line in row.log_lines]]


def release_failure_lines(snapshot: Snapshot) -> list[str]:
    """Return the last output of what made the newest release fail, once an older release runs again."""
    rollout = snapshot.current
    if rollout is None or snapshot.target == snapshot.number:
        return []
    lines = []
    for failure in rollout.failures:
        reason = f": {safe(failure.reason)}" if failure.reason else ""
        last = "; last lines:" if failure.log_lines else ""
        lines += ["", f"Release {failure.release} on {failure.node}/{failure.service}{reason}{last}"]
        lines += [f"    {safe(line)}" for line in failure.log_lines]
    return lines


def notes(snapshot: Snapshot, now: datetime) -> list[str]:
    """Return notes below the table: ingress problems, unreadable keys, cluster warnings, a lost connection, and every
    reason in a record that nothing else shows."""
    lines = ingress.problem_lines(ingress.ingress_problems(snapshot, now))
    lines += [f"Cannot read {safe(problem.key)}: {safe(problem.reason)}" for problem in snapshot.problems]
    lines += [safe(warning) for warning in snapshot.warnings]
    if snapshot.stale:
        lines.append(f"This may be out of date: {safe(snapshot.stale)}")
    lines += unexplained(snapshot, "\n".join([*_body(snapshot, now), *lines]))
    return ["", *lines] if lines else []


def pending_lines(snapshot: Snapshot) -> list[str]:
    """Return a line for each service and set of defaults that count from the next replacement of its containers on."""
    nodes: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for node in node_names(snapshot):
        status = snapshot.statuses.get(node)
        for service in status.services if status is not None else ():
            if pending := pending_of(service):
                nodes.setdefault((service.name, pending), []).append(node)
    return [
        f"{collapse_ranges(names)}: {service} gets {', '.join(pending)} when its container is replaced"
        for (service, pending), names in nodes.items()
    ]


def row_line(row: ServiceRow) -> str:
    """Return a row as a log line: ``n1 web: running, healthy, http://…``."""
    return f"{row.node} {row.service}: {_state(row)}" if row.service else f"{row.node}: {_state(row)}"


def changes(before: Sequence[ServiceRow], after: Sequence[ServiceRow]) -> list[tuple[ServiceRow, str]]:
    """Return the changed rows with their lines, then the removed rows; ages do not count as a change.

    A service that no agent has reported was not removed: its node waits for its batch.
    """
    known = {(row.node, row.service): row_line(row) for row in before}
    present = {(row.node, row.service) for row in after}
    changed = [(row, row_line(row)) for row in after if known.get((row.node, row.service)) != row_line(row)]
    gone = [row for row in before if row.service and row.reported and (row.node, row.service) not in present]
    return changed + [(row, f"{row.node} {row.service}: removed") for row in gone]


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
