"""Following a rollout until it settles, fails or is superseded."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from devopsellence.api.v1.stored_pb2 import Release, TaskStatus
from devopsellence.cli.output import CliError, Finding, NextAction, Output
from devopsellence.cli.render import ingress, json, progress
from devopsellence.cli.render import task as tasks
from devopsellence.cli.render.reporter import reporter
from devopsellence.cli.render.rows import ServiceRow, rows
from devopsellence.cli.render.text import failure_lines, rollout_line, row_line
from devopsellence.cli.store import reader
from devopsellence.cli.store.snapshot import ReleaseVerdict, RolloutState, Snapshot, release_verdict
from devopsellence.cli.store.watcher import EnvironmentWatcher
from devopsellence.cli.untrusted import safe
from devopsellence.store.errors import StoreError
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef

# Seconds after the progress deadline for the controller to report the failure.
_MARGIN: Final = 30.0
# Pause after each display, as a multiple of the time for displaying, and its limits in seconds.
_REST: Final = 20.0
_SHORTEST_REST: Final = 0.05
_LONGEST_REST: Final = 1.0
_DAY: Final = 86400.0
# Failed services listed; the rest is counted.
_FINDINGS: Final = 20
# URLs listed after a deploy; ``ingress show`` lists all.
_URLS: Final = 10
STATUS: Final = NextAction("see the current state", "devopsellence status")
_HALTED: Final = (
    NextAction("fix the problem and deploy again", "devopsellence deploy"),
    NextAction("or roll back to the last release that settled", "devopsellence release rollback"),
)


@dataclass(frozen=True)
class RolloutEnd:
    """End of the rollout of release ``number`` and the snapshot then; ``failed`` are the last failed services seen."""

    snapshot: Snapshot
    number: int
    verdict: ReleaseVerdict
    failed: Sequence[ServiceRow] = ()


async def follow(
    etcd: Etcd,
    ref: EnvironmentRef,
    output: Output,
    operation: str,
    *,
    number: int | None = None,
    patience: float | None = None,
    whole: bool = False,
    everything: bool = False,
) -> RolloutEnd:
    """Show the rollout of release ``number`` (None: the newest at any time) and return its end.

    ``patience``: seconds without progress after which following ends without a final verdict. ``whole``: JSON objects
    contain the whole state. ``everything``: show every service of every node, even with many nodes.

    Raises:
        Unavailable: etcd did not answer at the beginning; later losses of the connection are waited out.
    """
    waiting = ProgressTimer(patience)
    failed: list[ServiceRow] = []
    async with EnvironmentWatcher(etcd, ref) as watcher:
        with reporter(output, operation, whole=whole, everything=everything) as show:
            while True:
                begun = time.monotonic()
                snapshot = watcher.snapshot()
                followed = number if number is not None else snapshot.number
                verdict = release_verdict(snapshot, followed)
                if verdict.final:
                    snapshot = await _final_snapshot(etcd, ref, snapshot)
                show.show(snapshot, followed)
                failed = _failed(snapshot) or failed
                now = time.monotonic()
                left = waiting.left(snapshot, now)
                if verdict.final or left <= 0:
                    return RolloutEnd(snapshot, followed, verdict, failed)
                # Rapid changes are shown together.
                await asyncio.sleep(min(_LONGEST_REST, max(_SHORTEST_REST, (now - begun) * _REST)))
                await _next(watcher, min(left, show.every or left))


async def _next(watcher: EnvironmentWatcher, seconds: float) -> None:
    """Wait for a change, at most ``seconds``."""
    alarm = asyncio.get_running_loop().call_later(min(seconds, _DAY), watcher.wake)
    try:
        await watcher.next()
    finally:
        alarm.cancel()


class ProgressTimer:
    """Time limit of ``seconds`` (None: no limit) since the last visible progress."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = math.inf if seconds is None else seconds
        self._seen: object = None
        self._until = math.inf

    def left(self, snapshot: Snapshot, now: float) -> float:
        """Return the seconds left at ``now``, by a monotonic clock.

        The time limit restarts while the release task runs, and while the controller's own deadline stands still.
        """
        task = tasks.task_of(snapshot)
        current = snapshot.current
        running = task is not None and task.phase == TaskStatus.RUNNING
        paused = running or (current is not None and current.deadline_paused)
        counts = progress.counts(current)
        progress_mark = (
            (
                current.phase,
                current.target,
                counts.settled,
                counts.services_settled,
                current.counts.services_started,
            )
            if current is not None
            else None
        )
        if paused or progress_mark != self._seen or self._until == math.inf:
            self._seen, self._until = progress_mark, now + self._seconds
        return self._until - now


async def follow_release(etcd: Etcd, ref: EnvironmentRef, output: Output, operation: str, release: Release) -> None:
    """Follow the rollout of a new release and print its result; CliError unless the rollout settled."""
    patience = release.rollout.progress_deadline.ToTimedelta().total_seconds() + _MARGIN
    end = await follow(etcd, ref, output, operation, number=release.number, patience=patience)
    now, snapshot = datetime.now(UTC), end.snapshot
    if (problem := rollout_error(end, live=output.live)) is not None:
        raise problem
    lines = [
        f"Release {release.number} of {ref} is {rollout_line(snapshot, now)}",
        *ingress.urls(snapshot)[:_URLS],
        # An address alone would be taken for one that works, and plain HTTP for what was asked for.
        *ingress.problem_lines(ingress.ingress_problems(snapshot, now)),
    ]
    output.result(
        operation,
        "\n".join(lines),
        next_actions=next_steps(snapshot, now),
        release=json.release(release),
        rollout=json.rollout(snapshot, now),
        services=[json.row(row) for row in rows(snapshot, now)],
        ingress=ingress.document(snapshot, now),
    )


def next_steps(snapshot: Snapshot, now: datetime) -> list[NextAction]:
    """Return the next steps in the state of ``snapshot``, the most urgent first; an empty list if all is well."""
    if not snapshot.number:
        return [NextAction("deploy the app", "devopsellence deploy")]
    verdict = release_verdict(snapshot, snapshot.number)
    steps = [_whole_output(snapshot.number)] if verdict.outcome is RolloutState.FAILED else []
    steps += _HALTED if verdict.outcome is RolloutState.FAILED and not verdict.rolled_back_to else []
    if not verdict.final:
        steps.append(NextAction("follow the rollout", "devopsellence status --watch"))
        if snapshot.controllers == 0:
            steps.insert(0, NextAction("see what is missing", "devopsellence doctor"))
    return steps + [action for problem in ingress.ingress_problems(snapshot, now) for action in problem.next_actions]


def _whole_output(number: int) -> NextAction:
    return NextAction("see the whole output of the release", f"devopsellence logs --release {number}")


async def _final_snapshot(etcd: Etcd, ref: EnvironmentRef, seen: Snapshot) -> Snapshot:
    """Read all records once more after the end, because watches may deliver a status later than the rollout."""
    try:
        return await reader.snapshot(etcd, ref)
    except StoreError:
        return seen


def rollout_error(end: RolloutEnd, *, live: bool) -> CliError | None:
    """Return the error for a rollout that did not settle, else None. ``live``: the last state is still on screen."""
    snapshot, number, verdict = end.snapshot, end.number, end.verdict
    name = f"release {number} of {snapshot.ref}"
    if verdict.outcome is RolloutState.SETTLED:
        return None
    if verdict.outcome is RolloutState.SUPERSEDED:
        return CliError("rollout_superseded", f"{name} was superseded before it settled: {verdict.reason}")
    because = f": {verdict.reason}" if verdict.reason else ""
    # After a rollback, the screen no longer shows the failed services.
    table = end.failed if verdict.rolled_back_to else [] if live else rows(snapshot, datetime.now(UTC))
    on_screen = live and not verdict.rolled_back_to
    findings = _task_findings(snapshot) or ([] if on_screen else _with_recorded(snapshot, number, table))
    evidence = any(finding.evidence for finding in findings)
    look = [STATUS, *([_whole_output(number)] if evidence else [])]
    if verdict.outcome is RolloutState.FAILED and verdict.rolled_back_to:
        return CliError("rollout_failed", f"{name} failed{because}", findings=findings, next_actions=look)
    if verdict.outcome is RolloutState.FAILED:
        halted = snapshot.rollout is not None and snapshot.rollout.release == number and snapshot.rollout.halted
        fix = [STATUS, *_HALTED] if halted else [STATUS]
        return CliError("rollout_failed", f"{name} failed{because}", findings=findings, next_actions=fix)
    if snapshot.controllers == 0:
        fix = [NextAction("see what is missing", "devopsellence doctor")]
        return CliError(
            "no_controller", f"{name}: no controller is running, so the rollout does not start", next_actions=fix
        )
    if verdict.outcome is RolloutState.ROLLING_BACK:
        message = (
            f"{name} failed, and rolling back to release {verdict.rolled_back_to} takes longer than expected{because}"
        )
        return CliError("rollout_failed", message, findings=findings, next_actions=look)
    message = f"{name} has not settled in time{because}"
    return CliError("rollout_timeout", message, findings=findings, next_actions=[STATUS])


def _failed(snapshot: Snapshot) -> list[ServiceRow]:
    """Return the services reported as failed."""
    if not any(service.failed for status in snapshot.statuses.values() for service in status.services):
        return []
    return [row for row in rows(snapshot, datetime.now(UTC)) if row.failed]


def _task_findings(snapshot: Snapshot) -> list[Finding]:
    task = tasks.task_of(snapshot)
    if task is None or task.phase != TaskStatus.FAILED:
        return []
    evidence = "\n".join(line.strip() for line in tasks.last_lines(task)[2:])
    return [Finding("release_task_failed", f"task {tasks.headline(task)}", evidence=evidence)]


def _with_recorded(snapshot: Snapshot, number: int, table: Sequence[ServiceRow]) -> list[Finding]:
    """Return the failures that the controller recorded with their output, and the other findings of ``table``.

    The status that had the output may have been replaced before it was seen here.
    """
    rollout = snapshot.rollout
    recorded = rollout.failures if rollout is not None and rollout.release == number else ()
    known = {(failure.node, failure.service) for failure in recorded}
    findings = [
        Finding(
            "service_failed",
            f"{failure.node} {failure.service}: failed" + (f" ({safe(failure.reason)})" if failure.reason else ""),
            evidence="\n".join(["last lines:", *map(safe, failure.log_lines)] if failure.log_lines else []),
        )
        for failure in recorded
    ]
    failed = [row for row in table if row.failed and (row.node, row.service) not in known]
    return findings + _findings(failed) if findings else _findings(table)


def _findings(table: Sequence[ServiceRow]) -> list[Finding]:
    """Return the failed services, or if there are none, the unsettled ones, as findings; the first few."""
    culprits = [row for row in table if row.failed] or [row for row in table if not row.settled and not row.waiting]
    findings = [
        Finding("service_failed" if row.failed else "service_unsettled", row_line(row), evidence=_evidence(row))
        for row in culprits[:_FINDINGS]
    ]
    if more := len(culprits) - len(findings):
        findings.append(Finding(findings[0].code, f"and {more} more"))
    return findings


def _evidence(row: ServiceRow) -> str:
    # Without the empty line and the name, which are in the message of the finding.
    lines = failure_lines(row)[1:]
    return "\n".join(line.removeprefix(f"{row.node}/{row.service}: ") for line in lines)
