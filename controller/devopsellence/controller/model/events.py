"""Events of the controller: decisions with their reasons, in sentences. Pure; keys are added when they are stored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from devopsellence.api.v1 import stored_pb2 as pb

SOURCE: Final = "controller"
ROLLOUT_STARTED: Final = "rollout_started"
ROLLOUT_SETTLED: Final = "rollout_settled"
ROLLOUT_FAILED: Final = "rollout_failed"
# No further node is updated; updated nodes stay at the release.
ROLLOUT_HALTED: Final = "rollout_halted"
# Updated nodes return to the last settled release.
ROLLOUT_ROLLING_BACK: Final = "rollout_rolling_back"
ROLLOUT_ROLLED_BACK: Final = "rollout_rolled_back"
RELEASE_TASK_STARTED: Final = "release_task_started"
RELEASE_TASK_SUCCEEDED: Final = "release_task_succeeded"
RELEASE_TASK_FAILED: Final = "release_task_failed"
ASSIGNMENT_WRITTEN: Final = "assignment_written"
# A tombstone was written: the node is to remove everything of the environment.
ASSIGNMENT_WITHDRAWN: Final = "assignment_withdrawn"
# The node has carried out the tombstone, or the machine is gone for good.
ASSIGNMENT_DELETED: Final = "assignment_deleted"
# A node is unreachable, or a record of it cannot be read.
NODE_LOST: Final = "node_lost"
NODE_BACK: Final = "node_back"
_NAMED: Final = 5


def new_event(
    at: datetime,
    code: str,
    message: str,
    *,
    severity: pb.Event.Severity.ValueType = pb.Event.INFO,
    node: str = "",
    release: int = 0,
) -> pb.Event:
    """Return an event of the controller; ``at`` has a time zone."""
    event = pb.Event(severity=severity, source=SOURCE, code=code, message=message, node=node, release=release)
    event.at.FromDatetime(at)
    return event


def about_nodes(
    at: datetime, decisions: Iterable[tuple[str, str, str]], *, release: int, warn: Iterable[str] = ()
) -> list[pb.Event]:
    """Return an event for each distinct (code, reason) of ``decisions``, tuples of (code, reason, node), in order.

    A release that moves a thousand nodes is one event, not a thousand. Reasons in ``warn`` are warnings.
    """
    nodes_of: dict[tuple[str, str], list[str]] = {}
    for code, reason, node in decisions:
        nodes_of.setdefault((code, reason), []).append(node)
    warnings = frozenset(warn)
    return [
        new_event(
            at,
            code,
            f"{_names(nodes)}: {reason}",
            severity=pb.Event.WARNING if reason in warnings else pb.Event.INFO,
            node=nodes[0] if len(nodes) == 1 else "",
            release=release,
        )
        for (code, reason), nodes in nodes_of.items()
    ]


def _names(nodes: Sequence[str]) -> str:
    shown = ", ".join(nodes[:_NAMED])
    return f"{shown} and {len(nodes) - _NAMED} more" if len(nodes) > _NAMED else shown
