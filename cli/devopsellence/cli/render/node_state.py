"""State of every node of an environment, from the controller's rollout status or from the node's own status."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from google.protobuf.timestamp_pb2 import Timestamp

from devopsellence.api.v1.stored_pb2 import AssignmentStatus, NodeProgress, Rollout
from devopsellence.cli.store.snapshot import Snapshot, target_of
from devopsellence.cli.untrusted import safe
from devopsellence.cli.util.text import word

Phase: TypeAlias = NodeProgress.Phase.ValueType
_LOST = (NodeProgress.UNREACHABLE, NodeProgress.ERROR)


@dataclass(frozen=True)
class NodeSummary:
    """State of a node; ``phase`` is never unspecified, ``problem`` is "" if there is none.

    ``release`` is the assigned release, 0 if not known. ``since`` is the start of the phase as seen by the controller,
    None if the controller does not report it.
    """

    node: str
    phase: Phase
    reason: str = ""
    problem: str = ""
    release: int = 0
    since: Timestamp | None = None
    services_settled: int = 0
    services_total: int = 0


def node_names(snapshot: Snapshot) -> list[str]:
    """Return the names of the nodes attached to the environment or still reporting about it, sorted."""
    attached = set(snapshot.environment.nodes) if snapshot.environment else set()
    return sorted(attached | set(snapshot.progress) | set(snapshot.statuses))


def node_summaries(snapshot: Snapshot) -> list[NodeSummary]:
    """Return the state of every node, sorted by name."""
    return [_node_summary(snapshot, node) for node in node_names(snapshot)]


def _node_summary(snapshot: Snapshot, node: str) -> NodeSummary:
    progress = snapshot.progress.get(node, NodeProgress())
    status = snapshot.statuses.get(node)
    problem = _problem(snapshot, node)
    phase = _phase(snapshot, node, progress)
    return NodeSummary(
        node=node,
        phase=phase,
        reason=safe(progress.reason) if phase == progress.phase or not progress.phase else problem,
        problem=problem,
        release=progress.release or (status.release if status is not None else 0),
        since=progress.since if progress.since.seconds and phase == progress.phase else None,
        services_settled=progress.services_settled,
        services_total=progress.services_total,
    )


def _phase(snapshot: Snapshot, node: str, progress: NodeProgress) -> Phase:
    if progress.phase in _LOST:
        return progress.phase
    if _unreachable(snapshot, node):
        return NodeProgress.UNREACHABLE
    if snapshot.current is None:
        # The rollout status is still that of an earlier release.
        return NodeProgress.PENDING
    return progress.phase or _reported_phase(snapshot, snapshot.current, node)


def _reported_phase(snapshot: Snapshot, rollout: Rollout, node: str) -> Phase:
    """Return the phase of a node missing from the controller's list, which holds only the worst nodes."""
    status = snapshot.statuses.get(node)
    if status is None or status.release != target_of(rollout):
        return NodeProgress.WAITING if rollout.counts.waiting else NodeProgress.PENDING
    if status.phase == AssignmentStatus.ERROR:
        return NodeProgress.ERROR
    if status.phase == AssignmentStatus.FAILED:
        return NodeProgress.FAILED
    return NodeProgress.SETTLED if status.phase == AssignmentStatus.SETTLED else NodeProgress.CONVERGING


def _unreachable(snapshot: Snapshot, node: str) -> bool:
    return snapshot.heartbeats is not None and node not in snapshot.heartbeats


def _problem(snapshot: Snapshot, node: str) -> str:
    status = snapshot.statuses.get(node)
    if status is not None and status.phase == AssignmentStatus.ERROR:
        return safe(status.reason) or "its assignment is unreadable"
    if status is not None and status.problem:
        return f"no service can be started: {safe(status.problem)}"
    progress = snapshot.progress.get(node)
    if progress is not None and progress.phase == NodeProgress.ERROR and progress.reason:
        return safe(progress.reason)
    if _unreachable(snapshot, node):
        return "no heartbeat: the agent is not running or cannot reach etcd"
    heartbeat = snapshot.heartbeats.get(node) if snapshot.heartbeats is not None else None
    if heartbeat is not None and (problem := heartbeat.problem or heartbeat.folder_problem):
        return safe(problem)
    record = snapshot.nodes.get(node)
    if heartbeat is not None and record is not None and heartbeat.uid != record.uid:
        return "the agent was started with the uid of an earlier machine of this name"
    if progress is not None and progress.phase in _LOST:
        return safe(progress.reason) or word(NodeProgress.Phase, progress.phase)
    return ""
