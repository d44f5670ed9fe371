"""Following a rollout until it has settled, failed, or been superseded."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Final

from devopsellence.api.v1.stored_pb2 import Release, TaskStatus
from devopsellence.cli import read
from devopsellence.cli.output import CliError, Finding, NextAction, Output
from devopsellence.cli.release.watcher import Watcher
from devopsellence.cli.view import document
from devopsellence.cli.view import task as tasks
from devopsellence.cli.view.reporter import reporter
from devopsellence.cli.view.rows import Row, rows
from devopsellence.cli.view.snapshot import Outcome, Snapshot, Verdict, judge
from devopsellence.cli.view.text import failure_lines, rollout_line, row_line
from devopsellence.store.errors import StoreError
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef

# Seconds beyond the progress deadline that the controller has to say that it has passed.
_MARGIN: Final = 30.0
STATUS: Final = NextAction("see how it is now", "devopsellence status")


async def follow(
    etcd: Etcd,
    ref: EnvironmentRef,
    output: Output,
    operation: str,
    *,
    number: int | None = None,
    patience: float | None = None,
    whole: bool = False,
) -> tuple[Snapshot, Verdict]:
    """Show how release ``number`` (None: whichever is the newest) lands; return its end and the state at that time.

    ``patience``: after so many seconds without an end the verdict is as it stands, so not final. ``whole``: JSON
    objects have the whole state.

    Raises:
        Unavailable: etcd did not answer at the beginning; later it is waited for.
    """
    deadline = time.monotonic() + patience if patience is not None else None
    async with Watcher(etcd, ref) as watcher:
        if patience is not None:
            asyncio.get_running_loop().call_later(patience, watcher.wake)
        with reporter(output, operation, whole=whole) as show:
            snapshot = watcher.snapshot()
            while True:
                about = number if number is not None else snapshot.number
                verdict = judge(snapshot, about)
                if verdict.final:
                    snapshot = await _settle(etcd, ref, snapshot)
                show.show(snapshot, about)
                if verdict.final or (deadline is not None and time.monotonic() >= deadline):
                    return snapshot, verdict
                snapshot = await watcher.next()


async def follow_release(etcd: Etcd, ref: EnvironmentRef, output: Output, operation: str, release: Release) -> None:
    """Follow a release that was just written to its end, and say how it ended; CliError unless it settled."""
    patience = release.rollout.progress_deadline.ToTimedelta().total_seconds() + _MARGIN
    snapshot, verdict = await follow(etcd, ref, output, operation, number=release.number, patience=patience)
    now = datetime.now(UTC)
    table = rows(snapshot, now)
    # What did not settle is still on the screen where there is one.
    problem = failure(snapshot, release.number, verdict, [] if output.live else table)
    if problem is not None:
        raise problem
    output.result(
        operation,
        f"Release {release.number} of {ref} is {rollout_line(snapshot, now)}",
        release=document.release(release),
        rollout=document.rollout(snapshot),
        services=[document.row(row) for row in table],
    )


async def _settle(etcd: Etcd, ref: EnvironmentRef, seen: Snapshot) -> Snapshot:
    """Everything at one moment after the verdict: the watches are not in step, and a status may come after it."""
    try:
        return await read.snapshot(etcd, ref)
    except StoreError:
        return seen


def failure(snapshot: Snapshot, number: int, verdict: Verdict, table: list[Row]) -> CliError | None:
    """The error that a rollout's end is; None when it settled. ``table`` are the snapshot's rows."""
    name = f"release {number} of {snapshot.ref}"
    if verdict.outcome is Outcome.SETTLED:
        return None
    if verdict.outcome is Outcome.SUPERSEDED:
        return CliError("rollout_superseded", f"{name} was superseded before it settled: {verdict.reason}")
    because = f": {verdict.reason}" if verdict.reason else ""
    findings = _task_findings(snapshot) or _findings(table)
    if verdict.outcome is Outcome.FAILED:
        return CliError("rollout_failed", f"{name} failed{because}", findings=findings, next_actions=[STATUS])
    if snapshot.controllers == 0:
        mend = NextAction("see what is missing", "devopsellence doctor")
        return CliError("no_controller", f"{name}: no controller is running to roll it out", next_actions=[mend])
    message = f"{name} has not settled in time{because}"
    return CliError("rollout_timeout", message, findings=findings, next_actions=[STATUS])


def _task_findings(snapshot: Snapshot) -> list[Finding]:
    task = tasks.task_of(snapshot)
    if task is None or task.phase != TaskStatus.FAILED:
        return []
    evidence = "\n".join(line.strip() for line in tasks.last_lines(task)[2:])
    return [Finding("release_task_failed", f"task {tasks.headline(task)}", evidence=evidence)]


def _findings(table: list[Row]) -> list[Finding]:
    """What failed; where nothing says so, what has not settled."""
    guilty = [row for row in table if row.failed] or [row for row in table if not row.settled]
    return [
        Finding("service_failed" if row.failed else "service_unsettled", row_line(row), evidence=_evidence(row))
        for row in guilty
    ]


def _evidence(row: Row) -> str:
    # Without the empty line and the name, which the finding's own sentence has.
    lines = failure_lines(row)[1:]
    return "\n".join(line.removeprefix(f"{row.node}/{row.service}: ") for line in lines)
