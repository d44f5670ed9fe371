"""JSON form of a snapshot, as printed by ``status -o json``. Fields are only ever added."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from devopsellence.api.v1.stored_pb2 import AssignmentStatus, NodeProgress, Release, Rollout, ServiceFailure
from devopsellence.cli.render import ingress, progress
from devopsellence.cli.render import task as tasks
from devopsellence.cli.render.node_state import NodeSummary, node_summaries
from devopsellence.cli.render.rows import ServiceRow, rows
from devopsellence.cli.store.snapshot import Snapshot, release_verdict, target_of
from devopsellence.cli.untrusted import safe
from devopsellence.cli.util.text import iso, word


def status(snapshot: Snapshot, now: datetime) -> dict[str, Any]:
    """Return the JSON form of a snapshot, the document of ``status -o json``."""
    environment = snapshot.environment
    return {
        "environment": {
            "organization": snapshot.ref.organization,
            "project": snapshot.ref.project,
            "environment": snapshot.ref.environment,
            "nodes": list(environment.nodes) if environment else [],
            "latest_release": snapshot.number,
        },
        "release": release(snapshot.release) if snapshot.release else None,
        "rollout": rollout(snapshot, now),
        "nodes": [_node(snapshot, summary) for summary in node_summaries(snapshot)],
        "services": [row(service_row) for service_row in rows(snapshot, now)],
        "ingress": ingress.document(snapshot, now),
        "problems": [{"key": problem.key, "reason": problem.reason} for problem in snapshot.problems],
        "stale": snapshot.stale,
        "warnings": list(snapshot.warnings),
    }


def row(row: ServiceRow) -> dict[str, Any]:
    """Return the JSON form of a service on a node."""
    document = asdict(row)
    for name in ("age", "unhealthy"):
        seconds = document.pop(name)
        document[f"{name}_seconds"] = None if seconds is None else round(seconds, 1)
    document["log_lines"] = list(row.log_lines)
    document["pending"] = list(row.pending)
    return document


def release(release: Release) -> dict[str, Any]:
    """Return the JSON summary of a release; ``release show`` prints the complete form."""
    return {
        "number": release.number,
        "revision": release.revision,
        "message": release.message,
        "created_by": release.created_by,
        "created_at": iso(release.created_at),
        "rollback_of": release.rollback_of,
        "services": [service.name for service in release.services],
    }


def rollout(snapshot: Snapshot, now: datetime) -> dict[str, Any] | None:
    """Return the JSON form of the newest rollout; None before the first release."""
    if not snapshot.number:
        return None
    verdict = release_verdict(snapshot, snapshot.number)
    current = snapshot.current
    counts = progress.counts(current)
    task = tasks.task_of(snapshot)
    not_participating = sum(1 for node in snapshot.nodes.values() if node.cordoned)
    left = progress.seconds_left(current, now, not_participating=not_participating) if current else None
    return {
        "release": snapshot.number,
        "phase": verdict.outcome.value,
        "reason": verdict.reason,
        "target": snapshot.target,
        "last_settled": current.last_settled or None if current else None,
        "halted": current.halted if current else "",
        "provisional": current.provisional if current else False,
        "first_failure": current.first_failure if current else "",
        "deadline_paused": current.deadline_paused if current else False,
        "services_settled": counts.services_settled,
        "services_total": counts.services_total,
        "counts": progress.by_phase(current, node_summaries(snapshot)),
        "started_at": iso(current.started_at) if current else None,
        "finished_at": iso(current.finished_at) if current else None,
        "seconds_left": None if left is None else round(left),
        "task": tasks.document(task) if task else None,
        "failures": [_failure(failure) for failure in current.failures] if current else [],
    }


def _failure(failure: ServiceFailure) -> dict[str, Any]:
    return {
        "node": failure.node,
        "service": failure.service,
        "release": failure.release,
        "reason": safe(failure.reason),
        "log_lines": [safe(line) for line in failure.log_lines],
    }


@dataclass(frozen=True)
class ReleaseOutcome:
    """Result of a rollout, or its current state.

    ``runs``: the release is the rollout target. ``halted``: no further node is updated. ``rolled_back``: the release
    before this release runs again.
    """

    outcome: str
    reason: str = ""
    runs: bool = False
    halted: bool = False
    rolled_back: bool = False

    @property
    def text(self) -> str:
        """Outcome with halted, rolled back or runs, as text."""
        if self.rolled_back or self.halted:
            return "rolled back" if self.rolled_back else f"{self.outcome}, halted"
        return f"{self.outcome}, runs" if self.runs and self.outcome != "progressing" else self.outcome

    def document(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


def release_outcomes(rollout: Rollout | None) -> dict[int, ReleaseOutcome]:
    """Return the result of every rollout known to the controller, by release number."""
    if rollout is None:
        return {}
    target = target_of(rollout)
    outcomes = {
        past.release: ReleaseOutcome(word(Rollout.Phase, past.phase), past.reason, runs=past.release == target)
        for past in rollout.history
    }
    runs = target == rollout.release
    newest = ReleaseOutcome(
        outcome=word(Rollout.Phase, rollout.phase),
        reason=rollout.reason,
        runs=runs,
        halted=runs and bool(rollout.halted),
        rolled_back=rollout.phase == Rollout.FAILED and not runs,
    )
    return {**outcomes, rollout.release: newest}


def _reported(status: AssignmentStatus) -> dict[str, Any]:
    """Return what the agent itself says, about the release that it has, which may be another one."""
    return {
        "release": status.release,
        "phase": word(AssignmentStatus.Phase, status.phase),
        "reason": safe(status.reason),
        "problem": safe(status.problem),
        "services": {service.name: safe(service.reason) for service in status.services if service.reason},
    }


def _node(snapshot: Snapshot, summary: NodeSummary) -> dict[str, Any]:
    record, status = snapshot.nodes.get(summary.node), snapshot.statuses.get(summary.node)
    heartbeats = snapshot.heartbeats
    return {
        "node": summary.node,
        "labels": list(record.labels) if record else [],
        "heartbeat": None if heartbeats is None else summary.node in heartbeats,
        "phase": word(NodeProgress.Phase, summary.phase),
        "reason": summary.reason,
        "problem": summary.problem,
        "reported": _reported(status) if status is not None else None,
        "since": iso(summary.since) if summary.since is not None else None,
        "release": summary.release or None,
        "services_settled": summary.services_settled,
        "services_total": summary.services_total,
    }
