"""How far a rollout is, and how long the rest may take: from the Rollout alone."""

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
    """Nodes by what they do, and the services of those that are assigned the release that is to run."""

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
        """How much is done, from 0 to 1: of the nodes that can be reached, each as far as its services are."""
        reachable = self.nodes - self.unreachable
        if not reachable or not self.services_total:
            return self.settled / reachable if reachable else 0.0
        assigned = reachable - self.waiting
        return min(1.0, assigned / reachable * self.services_settled / self.services_total)


def counts(rollout: Rollout | None) -> RolloutCounts:
    """Those that the controller counted; of an older controller's rollout, the sum of the nodes that it lists."""
    if rollout is None:
        return RolloutCounts()
    found = rollout.counts if rollout.counts.total else _summed(rollout.nodes)
    return RolloutCounts(
        nodes=found.total,
        settled=found.settled,
        moving=found.pending + found.converging,
        waiting=found.waiting,
        unreachable=found.unreachable,
        failed=found.failed + found.error,
        services_settled=found.services_settled,
        services_total=found.services_total,
    )


def by_phase(rollout: Rollout | None, standings: Sequence[NodeSummary]) -> dict[str, int]:
    """How many nodes there are (``total``) and in each phase, by its word; as counted, or where nobody did, as seen."""
    if rollout is not None and rollout.counts.total:
        return {name: getattr(rollout.counts, name) for name in ("total", *_FIELDS.values())}
    found = {"total": len(standings)} | dict.fromkeys(_FIELDS.values(), 0)
    for standing in standings:
        found[_FIELDS[standing.phase]] += 1
    return found


def seconds_left(rollout: Rollout, now: datetime, *, apart: int = 0) -> float | None:
    """For how long the rollout may still go on at the pace that it had so far; None when there is nothing to go by.

    ``apart``: so many of the nodes that wait take no part. It takes as many nodes done as are under way: before that,
    the first ones tell nothing of the others.
    """
    found = counts(rollout)
    left = found.moving + max(0, found.waiting - apart)
    done = found.settled
    if rollout.phase != Rollout.PROGRESSING or rollout.halted or not left or done < max(1, found.moving):
        return None
    begun = rollout.started_at
    if rollout.task.finished_at.seconds:
        # Nothing moves before the release task has succeeded.
        begun = rollout.task.finished_at
    return seconds_between(begun, now) / done * left if begun.seconds else None


def time_left_text(seconds: float) -> str:
    """An estimate in words that do not pretend to be exact: ``about 40 s left``, ``about 3 min left``."""
    if seconds < 60:
        return f"about {max(5, 5 * round(seconds / 5))} s left"
    if seconds < 3600:
        return f"about {round(seconds / 60)} min left"
    return f"about {seconds / 3600:.1f} h left"


def progress_text(found: RolloutCounts) -> str:
    """Nodes and services done: ``12/300 nodes, 24/60 services``; one node goes without saying. "" when none counts."""
    parts = [f"{found.settled}/{plural(found.nodes, 'node')}"] if found.nodes > 1 else []
    parts += [f"{found.services_settled}/{plural(found.services_total, 'service')}"] if found.services_total else []
    return ", ".join(parts)


def _summed(nodes: Iterable[NodeProgress]) -> NodeCounts:
    found = NodeCounts()
    for node in nodes:
        found.total += 1
        if node.phase in _FIELDS:
            name = _FIELDS[node.phase]
            setattr(found, name, getattr(found, name) + 1)
        found.services_settled += node.services_settled
        found.services_total += node.services_total
    return found
