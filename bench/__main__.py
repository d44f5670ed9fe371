"""``python -m bench``: measure, print the table, write the JSON."""

from __future__ import annotations

import argparse
import asyncio
import logging
from pathlib import Path

from bench import report
from bench.cluster import cluster
from bench.scenarios import all_figures


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="pairs of runs of each figure (default: 3)")
    parser.add_argument("--json", action="store_true", help="print the JSON document instead of the table")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "results", help="where the JSON is kept")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    with cluster() as running:
        figures = asyncio.run(all_figures(running, runs=arguments.runs))
    path = report.write(figures, arguments.folder)
    if arguments.json:
        print(report.as_json(figures))
    else:
        report.print_table(figures)
        print(f"The same as JSON: {path}")


if __name__ == "__main__":
    main()
