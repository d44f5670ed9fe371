"""All figures of a single local cluster with a real engine."""

from __future__ import annotations

from bench.cluster import cluster, store
from bench.remote import remote_figures
from bench.report import Figure
from bench.scenarios import all_figures as scenarios
from bench.scenarios import small_image


async def all_figures(runs: int) -> list[Figure]:
    """Start the cluster, measure, purge the cluster."""
    with cluster() as running:
        async with store(running) as etcd:
            return [
                *await scenarios(running, etcd, runs=runs),
                *await remote_figures(running, etcd, small_image(), runs),
            ]
