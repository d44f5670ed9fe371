"""How each node stands as a whole: what the controller says of it, or where it does not, what there is to see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from google.protobuf.timestamp_pb2 import Timestamp

from devopsellence.api.v1.stored_pb2 import AssignmentStatus, NodeProgress, Rollout
from devopsellence.cli.store.snapshot import Snapshot, target_of
from devopsellence.cli.util.text import safe, word

Phase: TypeAlias = NodeProgress.Phase.ValueType
_LOST = (NodeProgress.UNREACHABLE, NodeProgress.ERROR)


@dataclass(frozen=True)
class NodeSummary:
    """One node: ``phase`` is never unspecified, ``trouble`` says why it does not do what it should, "" when it does.

    ``release`` is the one that it is assigned, as far as that is known, else 0. ``since`` is when the controller saw
    the phase begin, None where it does not say.
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
    """The nodes that have to do with the environment: attached ones and those that still report about it."""
    attached = set(snapshot.environment.nodes) if snapshot.environment else set()
    return sorted(attached | set(snapshot.progress) | set(snapshot.statuses))


def node_summaries(snapshot: Snapshot) -> list[NodeSummary]:
    """One for each node, sorted by name."""
    return [_standing(snapshot, node) for node in node_names(snapshot)]


def _standing(snapshot: Snapshot, node: str) -> NodeSummary:
    told = snapshot.progress.get(node, NodeProgress())
    status = snapshot.statuses.get(node)
    trouble = _trouble(snapshot, node)
    phase = _phase(snapshot, node, told)
    return NodeSummary(
        node=node,
        phase=phase,
        reason=safe(told.reason) if phase == told.phase or not told.phase else trouble,
        problem=trouble,
        release=told.release or (status.release if status is not None else 0),
        since=told.since if told.since.seconds and phase == told.phase else None,
        services_settled=told.services_settled,
        services_total=told.services_total,
    )


def _phase(snapshot: Snapshot, node: str, told: NodeProgress) -> Phase:
    if told.phase in _LOST:
        return told.phase
    if _silent(snapshot, node):
        return NodeProgress.UNREACHABLE
    if snapshot.current is None:
        # What is told is about an earlier release; of the newest nobody has said anything.
        return NodeProgress.PENDING
    return told.phase or _seen(snapshot, snapshot.current, node)


def _seen(snapshot: Snapshot, rollout: Rollout, node: str) -> Phase:
    """The phase of a node that the controller's list leaves out: it is no worse off than those in the list."""
    status = snapshot.statuses.get(node)
    if status is None or status.release != target_of(rollout):
        return NodeProgress.WAITING if rollout.counts.waiting else NodeProgress.PENDING
    if status.phase == AssignmentStatus.ERROR:
        return NodeProgress.ERROR
    if status.phase == AssignmentStatus.FAILED:
        return NodeProgress.FAILED
    return NodeProgress.SETTLED if status.phase == AssignmentStatus.SETTLED else NodeProgress.CONVERGING


def _silent(snapshot: Snapshot, node: str) -> bool:
    return snapshot.heartbeats is not None and node not in snapshot.heartbeats


def _trouble(snapshot: Snapshot, node: str) -> str:
    status = snapshot.statuses.get(node)
    if status is not None and status.phase == AssignmentStatus.ERROR:
        return safe(status.reason) or "its assignment cannot be read"
    told = snapshot.progress.get(node)
    if told is not None and told.phase == NodeProgress.ERROR and told.reason:
        return safe(told.reason)
    if _silent(snapshot, node):
        return "no heartbeat: the agent is not there"
    heartbeat = snapshot.heartbeats.get(node) if snapshot.heartbeats is not None else None
    if heartbeat is not None and heartbeat.problem:
        return safe(heartbeat.problem)
    record = snapshot.nodes.get(node)
    if heartbeat is not None and record is not None and heartbeat.uid != record.uid:
        return "the agent was started for an earlier machine of this name"
    if told is not None and told.phase in _LOST:
        return safe(told.reason) or word(NodeProgress.Phase, told.phase)
    return ""
