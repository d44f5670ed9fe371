"""Groups of nodes in the same state, problems first, for environments with many nodes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Final

from devopsellence.api.v1.stored_pb2 import NodeProgress
from devopsellence.cli.render.node_state import NodeSummary, node_names, node_summaries
from devopsellence.cli.render.rows import ServiceRow, node_rows
from devopsellence.cli.store.snapshot import Snapshot
from devopsellence.cli.util.text import anonymous, plural, since

# Up to this many nodes, every service of every node has its own line.
FEW_NODES: Final = 12


class NodeGroupKind(Enum):
    """Common state of the nodes of a group; in display order."""

    FAILED = "failed"
    UNREACHABLE = "unreachable"
    MOVING = "in flight"
    PENDING = "pending"
    WAITING = "waiting"
    SETTLED = "settled"


_KINDS: Final = {
    NodeProgress.FAILED: NodeGroupKind.FAILED,
    NodeProgress.ERROR: NodeGroupKind.FAILED,
    NodeProgress.UNREACHABLE: NodeGroupKind.UNREACHABLE,
    NodeProgress.PENDING: NodeGroupKind.MOVING,
    NodeProgress.CONVERGING: NodeGroupKind.MOVING,
    NodeProgress.WAITING: NodeGroupKind.WAITING,
    NodeProgress.SETTLED: NodeGroupKind.SETTLED,
}


_PHASES: Final = ("backoff", "running", "starting", "pulling", "stopping", "pending")


@dataclass(frozen=True)
class GroupLine:
    """Nodes of a group and the text about every one of these nodes; a node may be in several lines."""

    nodes: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class NodeGroup:
    """Nodes in the same state; ``rows`` are the failed services, for their last log lines."""

    kind: NodeGroupKind
    nodes: tuple[str, ...]
    lines: tuple[GroupLine, ...]
    rows: tuple[ServiceRow, ...] = ()

    def within(self, room: int) -> Sequence[GroupLine]:
        """Return at most ``room`` lines (``room`` is at least 1); the last line may summarize the rest."""
        if len(self.lines) <= room:
            return self.lines
        shown, rest = self.lines[: room - 1], self.lines[room - 1 :]
        names = dict.fromkeys(name for line in rest for name in line.nodes)
        more = GroupLine(tuple(names), f"{rest[0].text}; and {plural(len(rest) - 1, 'other state')}")
        return [*shown, more]


def are_few(snapshot: Snapshot) -> bool:
    """Return True if there are few enough nodes for a line per service."""
    return len(node_names(snapshot)) <= FEW_NODES


def groups(snapshot: Snapshot, now: datetime, *, ages: bool = True) -> list[NodeGroup]:
    """Return the groups with nodes, in display order; ``now`` is the end of durations.

    Without ``ages`` the texts have no durations and change only with the state.
    """
    members: dict[NodeGroupKind, list[tuple[NodeSummary, list[ServiceRow]]]] = {}
    for summary in node_summaries(snapshot):
        service_rows = list(node_rows(snapshot, summary, now))
        members.setdefault(_kind(snapshot, summary, service_rows), []).append((summary, service_rows))
    return [_group(kind, members[kind], now if ages else None) for kind in NodeGroupKind if kind in members]


def changes(before: Sequence[NodeGroup], after: Sequence[NodeGroup]) -> list[tuple[NodeGroupKind, GroupLine]]:
    """Return the lines about nodes in ``after`` without an equal line in ``before``."""
    known = {(group.kind, node, line.text) for group in before for line in group.lines for node in line.nodes}
    changed = []
    for group in after:
        for line in group.lines:
            new = tuple(node for node in line.nodes if (group.kind, node, line.text) not in known)
            changed += [(group.kind, GroupLine(new, line.text))] if new else []
    return changed


def line_limits(groups: Sequence[NodeGroup], room: int | None) -> list[int]:
    """Return the number of lines for every group, ``room`` in total (None: no limit).

    Every group gets a line; the remaining lines go to the first groups.
    """
    wanted = [len(group.lines) for group in groups]
    if room is None:
        return wanted
    limits = [1] * len(groups)
    for index, line_count in enumerate(wanted):
        limits[index] += max(0, min(line_count - 1, room - sum(limits)))
    return limits


def _kind(snapshot: Snapshot, summary: NodeSummary, service_rows: Iterable[ServiceRow]) -> NodeGroupKind:
    kind = _KINDS[summary.phase]
    # The status of the node may be newer than the controller's view of it.
    if kind is not NodeGroupKind.UNREACHABLE and any(row.failed for row in service_rows):
        kind = NodeGroupKind.FAILED
    elif kind is NodeGroupKind.SETTLED and not all(row.settled for row in service_rows):
        kind = NodeGroupKind.MOVING
    return NodeGroupKind.PENDING if kind is NodeGroupKind.MOVING and snapshot.current is None else kind


def _group(
    kind: NodeGroupKind, members: Sequence[tuple[NodeSummary, Sequence[ServiceRow]]], now: datetime | None
) -> NodeGroup:
    nodes_by_text: dict[str, list[str]] = {}
    for summary, service_rows in members:
        for text in _clauses(kind, summary, service_rows, now):
            nodes_by_text.setdefault(text, []).append(summary.node)
    if kind is NodeGroupKind.WAITING and len(nodes_by_text) > 1 and "" in nodes_by_text:
        # Nodes without a reason from the controller wait for the same as most nodes.
        without_reason = nodes_by_text.pop("")
        max(nodes_by_text.values(), key=len).extend(without_reason)
    lines = [GroupLine(tuple(nodes), text) for text, nodes in nodes_by_text.items()]
    # A stable order while nodes move from line to line; most frequent failures first.
    lines.sort(key=lambda line: (-len(line.nodes) if kind is NodeGroupKind.FAILED else 0, line.text))
    failed = [
        row for _, service_rows in members for row in service_rows if kind is NodeGroupKind.FAILED and not row.settled
    ]
    return NodeGroup(kind, tuple(summary.node for summary, _ in members), tuple(lines), tuple(failed))


def _clauses(
    kind: NodeGroupKind, summary: NodeSummary, service_rows: Sequence[ServiceRow], now: datetime | None
) -> list[str]:
    """Return the clauses about a node."""
    reason = anonymous(summary.reason or summary.problem, summary.node)
    if kind in (NodeGroupKind.SETTLED, NodeGroupKind.WAITING):
        return [reason]
    if kind is NodeGroupKind.UNREACHABLE:
        gone = since(summary.since, now) if summary.since is not None and now is not None else ""
        return [f"for {gone}: {reason}" if gone else reason]
    unsettled = sorted((row for row in service_rows if row.service and not row.settled), key=_gravity)
    if kind is NodeGroupKind.FAILED:
        return [_clause(row) for row in unsettled if row.failed] or [reason]
    if not unsettled:
        return ["has just settled" if any(row.service for row in service_rows) else reason]
    if not any(row.current for row in unsettled):
        return [unsettled[0].reason]
    more = f"; {plural(len(unsettled) - 1, 'other service')} as well" if len(unsettled) > 1 else ""
    return [_clause(unsettled[0]) + more]


def _gravity(row: ServiceRow) -> tuple[bool, int]:
    """Return a sort key: failed services first, then by progress."""
    return not row.failed, _PHASES.index(row.phase) if row.phase in _PHASES else len(_PHASES)


def _clause(row: ServiceRow) -> str:
    state = row.phase if row.health in ("", "none", "unknown", "healthy") else f"{row.phase}, {row.health}"
    text = f"{row.service} {'failed' if row.failed else state}"
    return f"{text} ({row.reason})" if row.reason else text
