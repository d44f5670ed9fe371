"""``python -m bench``: measure, print the table, write the JSON."""

from __future__ import annotations

import argparse
import asyncio
import logging
from pathlib import Path

from bench import images, report
from bench.cluster import Cluster, cluster, store
from bench.remote import remote_figures
from bench.report import Figure
from bench.scenarios import all_figures, small_image


async def _in_cluster(running: Cluster, runs: int) -> list[Figure]:
    async with store(running) as etcd:
        return [*await all_figures(running, etcd, runs=runs), *await remote_figures(running, etcd, small_image(), runs)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="pairs of runs of each figure (default: 3)")
    parser.add_argument("--json", action="store_true", help="print the JSON document instead of the table")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "results", help="where the JSON is kept")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    with cluster() as running:
        figures = asyncio.run(_in_cluster(running, arguments.runs))
    figures += images.all_figures(runs=arguments.runs)
    path = report.write(figures, arguments.folder)
    if arguments.json:
        print(report.as_json(figures))
    else:
        report.print_table(figures)
        print(f"The same as JSON: {path}")


if __name__ == "__main__":
    main()
