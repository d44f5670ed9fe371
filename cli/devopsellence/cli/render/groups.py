"""Many nodes in little room: those that stand alike together, what is wrong first."""

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

# Up to so many nodes every service of every node has a line.
FEW_NODES: Final = 12


class NodeGroupKind(Enum):
    """What a group's nodes have in common; in the order in which they are shown."""

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
    """Some nodes of a group, and what is to be said of each of them; a node may be in several lines."""

    nodes: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class NodeGroup:
    """``nodes`` of one kind. ``rows`` are those of failed services, for their last words."""

    kind: NodeGroupKind
    nodes: tuple[str, ...]
    lines: tuple[GroupLine, ...]
    rows: tuple[ServiceRow, ...] = ()

    def within(self, room: int) -> Sequence[GroupLine]:
        """The lines, in at most ``room`` (at least 1) of them: the last one may stand for several."""
        if len(self.lines) <= room:
            return self.lines
        shown, rest = self.lines[: room - 1], self.lines[room - 1 :]
        names = dict.fromkeys(name for line in rest for name in line.nodes)
        more = GroupLine(tuple(names), f"{rest[0].text}; and {plural(len(rest) - 1, 'other state')}")
        return [*shown, more]


def are_few(snapshot: Snapshot) -> bool:
    """Whether there are so few nodes that each can have its lines."""
    return len(node_names(snapshot)) <= FEW_NODES


def groups(snapshot: Snapshot, now: datetime, *, ages: bool = True) -> list[NodeGroup]:
    """The groups that have nodes, in order. ``now`` is what times are counted to.

    Without ``ages`` they say something else only when something happens.
    """
    members: dict[NodeGroupKind, list[tuple[NodeSummary, list[ServiceRow]]]] = {}
    for standing in node_summaries(snapshot):
        table = list(node_rows(snapshot, standing, now))
        members.setdefault(_kind(snapshot, standing, table), []).append((standing, table))
    return [_group(kind, members[kind], now if ages else None) for kind in NodeGroupKind if kind in members]


def changes(before: Sequence[NodeGroup], after: Sequence[NodeGroup]) -> list[tuple[NodeGroupKind, GroupLine]]:
    """What is said of nodes in ``after`` and was not in ``before``."""
    known = {(group.kind, node, line.text) for group in before for line in group.lines for node in line.nodes}
    found = []
    for group in after:
        for line in group.lines:
            new = tuple(node for node in line.nodes if (group.kind, node, line.text) not in known)
            found += [(group.kind, GroupLine(new, line.text))] if new else []
    return found


def line_limits(found: Sequence[NodeGroup], room: int | None) -> list[int]:
    """How many lines each group gets of ``room`` (None: as many as it has): one each, then the first ones first."""
    wanted = [len(group.lines) for group in found]
    if room is None:
        return wanted
    given = [1] * len(found)
    for index, each in enumerate(wanted):
        given[index] += max(0, min(each - 1, room - sum(given)))
    return given


def _kind(snapshot: Snapshot, standing: NodeSummary, table: Iterable[ServiceRow]) -> NodeGroupKind:
    kind = _KINDS[standing.phase]
    # The node may have said so since the controller last looked.
    if kind is not NodeGroupKind.UNREACHABLE and any(row.failed for row in table):
        kind = NodeGroupKind.FAILED
    elif kind is NodeGroupKind.SETTLED and not all(row.settled for row in table):
        kind = NodeGroupKind.MOVING
    return NodeGroupKind.PENDING if kind is NodeGroupKind.MOVING and snapshot.current is None else kind


def _group(
    kind: NodeGroupKind, members: Sequence[tuple[NodeSummary, Sequence[ServiceRow]]], now: datetime | None
) -> NodeGroup:
    said: dict[str, list[str]] = {}
    for standing, table in members:
        for what in _said(kind, standing, table, now):
            said.setdefault(what, []).append(standing.node)
    if kind is NodeGroupKind.WAITING and len(said) > 1 and "" in said:
        # Those of whom the controller does not speak wait for the same as most.
        silent = said.pop("")
        max(said.values(), key=len).extend(silent)
    lines = [GroupLine(tuple(nodes), what) for what, nodes in said.items()]
    # In an order that does not change while nodes go from line to line; of failures, the most frequent first.
    lines.sort(key=lambda line: (-len(line.nodes) if kind is NodeGroupKind.FAILED else 0, line.text))
    failed = [row for _, table in members for row in table if kind is NodeGroupKind.FAILED and not row.settled]
    return NodeGroup(kind, tuple(standing.node for standing, _ in members), tuple(lines), tuple(failed))


def _said(kind: NodeGroupKind, standing: NodeSummary, table: Sequence[ServiceRow], now: datetime | None) -> list[str]:
    """What there is to say of a node, as clauses."""
    reason = anonymous(standing.reason or standing.problem, standing.node)
    if kind in (NodeGroupKind.SETTLED, NodeGroupKind.WAITING):
        return [reason]
    if kind is NodeGroupKind.UNREACHABLE:
        gone = since(standing.since, now) if standing.since is not None and now is not None else ""
        return [f"for {gone}: {reason}" if gone else reason]
    unsettled = sorted((row for row in table if row.service and not row.settled), key=_gravity)
    if kind is NodeGroupKind.FAILED:
        return [_clause(row) for row in unsettled if row.failed] or [reason]
    if not unsettled:
        return ["has just settled" if any(row.service for row in table) else reason]
    if not any(row.current for row in unsettled):
        return [unsettled[0].reason]
    more = f"; {plural(len(unsettled) - 1, 'other service')} as well" if len(unsettled) > 1 else ""
    return [_clause(unsettled[0]) + more]


def _gravity(row: ServiceRow) -> tuple[bool, int]:
    """What is worse, and after that what is further on its way, comes first."""
    return not row.failed, _PHASES.index(row.phase) if row.phase in _PHASES else len(_PHASES)


def _clause(row: ServiceRow) -> str:
    state = row.phase if row.health in ("", "none", "unknown", "healthy") else f"{row.phase}, {row.health}"
    text = f"{row.service} {'failed' if row.failed else state}"
    return f"{text} ({row.reason})" if row.reason else text
