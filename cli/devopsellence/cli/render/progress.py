"""Progress of a rollout and an estimate of the time left, from the Rollout record alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from devopsellence.api.v1.stored_pb2 import NodeCounts, NodeProgress, Rollout
from devopsellence.cli.render.node_state import NodeSummary
from devopsellence.cli.util.text import plural, seconds_between

_FIELDS: Final[dict[int, str]] = {
    NodeProgress.PENDING: "pending",
    NodeProgress.CONVERGING: "converging",
    NodeProgress.SETTLED: "settled",
    NodeProgress.FAILED: "failed",
    NodeProgress.UNREACHABLE: "unreachable",
    NodeProgress.ERROR: "error",
    NodeProgress.WAITING: "waiting",
}


@dataclass(frozen=True)
class RolloutCounts:
    """Numbers of nodes by state, and of services on the nodes assigned to the rollout target."""

    nodes: int = 0
    settled: int = 0
    moving: int = 0
    waiting: int = 0
    unreachable: int = 0
    failed: int = 0
    services_settled: int = 0
    services_total: int = 0

    @property
    def share(self) -> float:
        """Progress from 0 to 1: settled services of reachable nodes."""
        reachable = self.nodes - self.unreachable
        if not reachable or not self.services_total:
            return self.settled / reachable if reachable else 0.0
        assigned = reachable - self.waiting
        return min(1.0, assigned / reachable * self.services_settled / self.services_total)


def counts(rollout: Rollout | None) -> RolloutCounts:
    """Return the controller's counts; from an older controller without counts, the sum over the listed nodes."""
    if rollout is None:
        return RolloutCounts()
    counted = rollout.counts if rollout.counts.total else _summed(rollout.nodes)
    return RolloutCounts(
        nodes=counted.total,
        settled=counted.settled,
        moving=counted.pending + counted.converging,
        waiting=counted.waiting,
        unreachable=counted.unreachable,
        failed=counted.failed + counted.error,
        services_settled=counted.services_settled,
        services_total=counted.services_total,
    )


def by_phase(rollout: Rollout | None, summaries: Sequence[NodeSummary]) -> dict[str, int]:
    """Return the number of nodes in total and per phase, as counted by the controller, else from the node states."""
    if rollout is not None and rollout.counts.total:
        return {name: getattr(rollout.counts, name) for name in ("total", *_FIELDS.values())}
    counted = {"total": len(summaries)} | dict.fromkeys(_FIELDS.values(), 0)
    for summary in summaries:
        counted[_FIELDS[summary.phase]] += 1
    return counted


def seconds_left(rollout: Rollout, now: datetime, *, not_participating: int = 0) -> float | None:
    """Estimate the seconds left at the rate so far; None without a basis for an estimate.

    ``not_participating`` is the number of waiting nodes that take no part. An estimate needs at least as many settled
    nodes as nodes in progress, because a single batch says nothing about the rest.
    """
    counted = counts(rollout)
    left = counted.moving + max(0, counted.waiting - not_participating)
    done = counted.settled
    if rollout.phase != Rollout.PROGRESSING or rollout.halted or not left or done < max(1, counted.moving):
        return None
    begun = rollout.started_at
    if rollout.task.finished_at.seconds:
        # Nothing moves before the release task has succeeded.
        begun = rollout.task.finished_at
    return seconds_between(begun, now) / done * left if begun.seconds else None


def time_left_text(seconds: float) -> str:
    """Return the estimate as rounded text: ``about 40 s left``, ``about 3 min left``."""
    if seconds < 60:
        return f"about {max(5, 5 * round(seconds / 5))} s left"
    if seconds < 3600:
        return f"about {round(seconds / 60)} min left"
    return f"about {seconds / 3600:.1f} h left"


def progress_text(counted: RolloutCounts) -> str:
    """Return the settled nodes and services: ``12/300 nodes, 24/60 services``; a single node is not mentioned."""
    parts = [f"{counted.settled}/{plural(counted.nodes, 'node')}"] if counted.nodes > 1 else []
    parts += (
        [f"{counted.services_settled}/{plural(counted.services_total, 'service')}"] if counted.services_total else []
    )
    return ", ".join(parts)


def _summed(nodes: Iterable[NodeProgress]) -> NodeCounts:
    counted = NodeCounts()
    for node in nodes:
        counted.total += 1
        if node.phase in _FIELDS:
            name = _FIELDS[node.phase]
            setattr(counted, name, getattr(counted, name) + 1)
        counted.services_settled += node.services_settled
        counted.services_total += node.services_total
    return counted
