"""Snapshots of an environment for tests of the display."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from devopsellence.api.v1.stored_pb2 import (
    AssignmentStatus,
    Environment,
    Heartbeat,
    Node,
    NodeProgress,
    Release,
    Rollout,
    ServiceStatus,
)
from devopsellence.api.v1.workload_pb2 import Port, Service
from devopsellence.cli.render.rows import ServiceRow, rows
from devopsellence.cli.store.snapshot import Snapshot
from devopsellence.store.keys import EnvironmentRef

REF = EnvironmentRef("acme", "Shop", "production")
NOW = datetime(2026, 5, 1, 12, 0, 0, tzinfo=UTC)


def ago(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(NOW - timedelta(seconds=seconds))
    return stamp


WEB = Service(name="web", kind=Service.WEB, ports=[Port(name="metrics", port=9000), Port(name="http", port=3000)])
REDIS = Service(name="redis", kind=Service.WORKER)
RELEASE = Release(
    number=2,
    services=[REDIS, WEB],
    revision="a1b2c3d",
    created_by="ann@laptop",
    message="new search",
    created_at=ago(120),
)


def running(name: str, **more: Any) -> ServiceStatus:
    fields: dict[str, Any] = {
        "name": name,
        "phase": ServiceStatus.RUNNING,
        "health": ServiceStatus.HEALTHY if name == "web" else ServiceStatus.NONE,
        "address": "172.18.0.3" if name == "web" else "172.18.0.2",
        "release": 2,
        "started_at": ago(30),
    }
    return ServiceStatus(**{**fields, **more})


def status(*services: ServiceStatus, release: int = 2, **more: Any) -> AssignmentStatus:
    fields: dict[str, Any] = {"node": "n1", "phase": AssignmentStatus.SETTLED}
    return AssignmentStatus(release=release, services=services, **{**fields, **more})


def rollout(phase: Rollout.Phase.ValueType, settled: int = 2, **more: Any) -> Rollout:
    fields: dict[str, Any] = {
        "release": 2,
        "phase": phase,
        "started_at": ago(60),
        "nodes": [NodeProgress(node="n1", services_settled=settled, services_total=2)],
    }
    return Rollout(**{**fields, **more})


def snapshot(**more: Any) -> Snapshot:
    """Return a snapshot of a node with two services, settled at release 2."""
    fields: dict[str, Any] = {
        "ref": REF,
        "environment": Environment(organization="acme", nodes=["n1"], latest_release=2),
        "release": RELEASE,
        "rollout": rollout(Rollout.SETTLED, finished_at=ago(57.5)),
        "nodes": {"n1": Node(name="n1", uid="u1", labels=["web", "worker"])},
        "heartbeats": {"n1": Heartbeat(node="n1", uid="u1")},
        "statuses": {"n1": status(running("redis"), running("web"))},
        "controllers": 1,
    }
    return Snapshot(**{**fields, **more})


def row(state: Snapshot, service: str) -> ServiceRow:
    return next(candidate for candidate in rows(state, NOW) if candidate.service == service)


def back_at_one(**more: Any) -> Snapshot:
    """Release 2 has failed and was rolled back: release 1 runs."""
    reason = "web on n1: ended with exit code 3; release 1 runs again"
    fields: dict[str, Any] = {
        "rollout": rollout(Rollout.FAILED, finished_at=ago(48), target=1, last_settled=1, reason=reason),
        "older_releases": {1: Release(number=1, services=[REDIS, WEB], revision="0d1e2f3")},
        "statuses": {"n1": status(running("redis", release=1), running("web", release=1), release=1)},
    }
    return snapshot(**{**fields, **more})
