"""A snapshot as JSON: what ``status -o json`` prints. Fields are only ever added."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from devopsellence.api.v1.stored_pb2 import NodeProgress, Release, Rollout
from devopsellence.cli.render import ingress, progress
from devopsellence.cli.render import task as tasks
from devopsellence.cli.render.node_state import NodeSummary, node_summaries
from devopsellence.cli.render.rows import ServiceRow, rows
from devopsellence.cli.store.snapshot import Snapshot, release_verdict, target_of
from devopsellence.cli.util.text import iso, word


def status(snapshot: Snapshot, now: datetime) -> dict[str, Any]:
    """The whole snapshot: ``environment``, ``release``, ``rollout``, ``nodes``, ``services``, ``problems``, …"""
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
        "nodes": [_node(snapshot, standing) for standing in node_summaries(snapshot)],
        "services": [row(each) for each in rows(snapshot, now)],
        "ingress": ingress.document(snapshot, now),
        "problems": [{"key": problem.key, "reason": problem.reason} for problem in snapshot.problems],
        "stale": snapshot.stale,
        "warnings": list(snapshot.warnings),
    }


def row(row: ServiceRow) -> dict[str, Any]:
    """One service on one node."""
    document = asdict(row)
    for name in ("age", "unhealthy"):
        seconds = document.pop(name)
        document[f"{name}_seconds"] = None if seconds is None else round(seconds, 1)
    document["log_lines"] = list(row.log_lines)
    return document


def release(release: Release) -> dict[str, Any]:
    """What people ask about a release; all of it is in ``release show``."""
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
    """How the newest release fares; None before the first."""
    if not snapshot.number:
        return None
    verdict = release_verdict(snapshot, snapshot.number)
    found = snapshot.current
    counts = progress.counts(found)
    task = tasks.task_of(snapshot)
    apart = sum(1 for node in snapshot.nodes.values() if node.cordoned)
    left = progress.seconds_left(found, now, apart=apart) if found else None
    return {
        "release": snapshot.number,
        "phase": verdict.outcome.value,
        "reason": verdict.reason,
        "target": snapshot.target,
        "last_settled": found.last_settled or None if found else None,
        "halted": found.halted if found else "",
        "services_settled": counts.services_settled,
        "services_total": counts.services_total,
        "counts": progress.by_phase(found, node_summaries(snapshot)),
        "started_at": iso(found.started_at) if found else None,
        "finished_at": iso(found.finished_at) if found else None,
        "seconds_left": None if left is None else round(left),
        "task": tasks.document(task) if task else None,
    }


@dataclass(frozen=True)
class ReleaseOutcome:
    """How a release ended or stands.

    ``runs``: the environment is to run it. ``halted``: no further node is moved to it. ``rolled_back``: the release
    before it runs again.
    """

    outcome: str
    reason: str = ""
    runs: bool = False
    halted: bool = False
    rolled_back: bool = False

    @property
    def text(self) -> str:
        """Outcome and the rest, for people."""
        if self.rolled_back or self.halted:
            return "rolled back" if self.rolled_back else f"{self.outcome}, halted"
        return f"{self.outcome}, runs" if self.runs and self.outcome != "progressing" else self.outcome

    def document(self) -> dict[str, Any]:
        """The shape that it has in JSON."""
        return asdict(self)


def release_outcomes(found: Rollout | None) -> dict[int, ReleaseOutcome]:
    """How each release ended or stands, by number, as far as the controller remembers."""
    if found is None:
        return {}
    target = target_of(found)
    ended = {
        past.release: ReleaseOutcome(word(Rollout.Phase, past.phase), past.reason, runs=past.release == target)
        for past in found.history
    }
    runs = target == found.release
    newest = ReleaseOutcome(
        outcome=word(Rollout.Phase, found.phase),
        reason=found.reason,
        runs=runs,
        halted=runs and bool(found.halted),
        rolled_back=found.phase == Rollout.FAILED and not runs,
    )
    return {**ended, found.release: newest}


def _node(snapshot: Snapshot, standing: NodeSummary) -> dict[str, Any]:
    record = snapshot.nodes.get(standing.node)
    heartbeats = snapshot.heartbeats
    return {
        "node": standing.node,
        "labels": list(record.labels) if record else [],
        "heartbeat": None if heartbeats is None else standing.node in heartbeats,
        "phase": word(NodeProgress.Phase, standing.phase),
        "reason": standing.reason,
        "since": iso(standing.since) if standing.since is not None else None,
        "release": standing.release or None,
        "services_settled": standing.services_settled,
        "services_total": standing.services_total,
    }
