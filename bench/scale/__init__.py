"""A controller and an etcd under a thousand nodes: hollow agents where agents matter, else plain records."""

from __future__ import annotations

from bench.report import Figure
from bench.scale import action, changes, delivery, rollout


async def all_figures(runs: int) -> list[Figure]:
    """How soon a release reaches a thousand nodes and settles, rest, what a change costs, how soon a node acts."""
    parts = (delivery.figures, rollout.figures, changes.figures, action.figures)
    return [figure for part in parts for figure in await part(runs)]
