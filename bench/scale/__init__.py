"""A controller and an etcd under a thousand nodes: hollow agents where agents matter, else plain records."""

from __future__ import annotations

from bench.report import Figure
from bench.scale import action, changes, rollout


async def all_figures(runs: int) -> list[Figure]:
    """A release for a thousand nodes, rest, what a change costs, and how soon a node acts."""
    return [*await rollout.figures(runs), *await changes.figures(runs), *await action.figures(runs)]
