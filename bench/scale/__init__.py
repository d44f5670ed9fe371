"""Scale: a controller and an etcd with a thousand nodes; hollow agents, or plain records without agents."""

from __future__ import annotations

from bench.report import Figure
from bench.scale import action, changes, delivery, rollout


async def all_figures(runs: int) -> list[Figure]:
    """Measure rollout to a thousand nodes, idle cost, cost of a status change, and reaction time of a node."""
    parts = (delivery.figures, rollout.figures, changes.figures, action.figures)
    return [figure for part in parts for figure in await part(runs)]
