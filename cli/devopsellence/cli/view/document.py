"""A snapshot as JSON: what ``status -o json`` prints. Fields are only ever added."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Any

from devopsellence.api.v1.stored_pb2 import NodeProgress, Release, Rollout
from devopsellence.cli.view import task as tasks
from devopsellence.cli.view.rows import Row, node_names, rows
from devopsellence.cli.view.snapshot import Snapshot, judge
from devopsellence.cli.view.words import iso, word


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
        "rollout": rollout(snapshot),
        "nodes": [_node(snapshot, name) for name in node_names(snapshot)],
        "services": [row(each) for each in rows(snapshot, now)],
        "problems": [{"key": problem.key, "reason": problem.reason} for problem in snapshot.problems],
        "stale": snapshot.stale,
        "warnings": list(snapshot.warnings),
    }


def row(row: Row) -> dict[str, Any]:
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


def rollout(snapshot: Snapshot) -> dict[str, Any] | None:
    """How the newest release fares; None before the first."""
    if not snapshot.number:
        return None
    verdict = judge(snapshot, snapshot.number)
    found = snapshot.rollout if snapshot.rollout and snapshot.rollout.release == snapshot.number else None
    settled, total = progress(snapshot)
    task = tasks.task_of(snapshot)
    return {
        "release": snapshot.number,
        "phase": verdict.outcome.value,
        "reason": verdict.reason,
        "services_settled": settled,
        "services_total": total,
        "started_at": iso(found.started_at) if found else None,
        "finished_at": iso(found.finished_at) if found else None,
        "task": tasks.document(task) if task else None,
    }


def progress(snapshot: Snapshot) -> tuple[int, int]:
    """Services settled and services in all, over the nodes, as the controller counts them for the newest release."""
    found = snapshot.rollout
    if found is None or found.release != snapshot.number:
        return 0, 0
    return sum(node.services_settled for node in found.nodes), sum(node.services_total for node in found.nodes)


def outcomes(found: Rollout | None) -> dict[int, str]:
    """How each release ended or stands, by number, as far as the controller remembers."""
    if found is None:
        return {}
    past = {outcome.release: word(Rollout.Phase, outcome.phase) for outcome in found.history}
    return {**past, found.release: word(Rollout.Phase, found.phase)}


def _node(snapshot: Snapshot, name: str) -> dict[str, Any]:
    record = snapshot.nodes.get(name)
    found = next((each for each in snapshot.rollout.nodes if each.node == name), None) if snapshot.rollout else None
    heartbeats = snapshot.heartbeats
    return {
        "node": name,
        "labels": list(record.labels) if record else [],
        "heartbeat": None if heartbeats is None else name in heartbeats,
        "phase": word(NodeProgress.Phase, found.phase) if found else "unknown",
        "reason": found.reason if found else "",
        "services_settled": found.services_settled if found else 0,
        "services_total": found.services_total if found else 0,
    }
