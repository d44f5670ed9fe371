"""``python -m bench``: measure, print the table, write the JSON. ``--only`` chooses groups."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final, TypeAlias

from bench import cluster_rolling, failover, gateway, images, ingress, local, report, scale
from bench.report import Figure

#: Function from the number of runs to figures.
Group: TypeAlias = Callable[[int], list[Figure] | Coroutine[Any, Any, list[Figure]]]

_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: Groups of figures, in order of measurement. A group sets up its own cluster.
GROUPS: Final[Mapping[str, Group]] = {
    "local": local.all_figures,
    "images": images.all_figures,
    "ingress": ingress.all_figures,
    "scale": scale.all_figures,
    "failover": failover.all_figures,
    "gateway": gateway.all_figures,
    "gateway-scale": scale.gateway_figures,
    "rolling": cluster_rolling.all_figures,
}


def measure(groups: Sequence[str], runs: int, known: Mapping[str, Group] = GROUPS) -> list[Figure]:
    """Measure the figures of ``groups``."""
    figures = []
    for name in groups:
        result = known[name](runs)
        figures += asyncio.run(result) if isinstance(result, Coroutine) else result
    return figures


def end_on_signals() -> None:
    """Turn SIGTERM, SIGHUP and SIGINT into SystemExit, so that a benchmark that is ended removes its cluster.

    SIGINT as well: a shell starts programs in the background with SIGINT ignored.
    """

    def end(number: int, _frame: FrameType | None) -> None:
        # Once: the clean-up is not to be interrupted.
        for later in _ENDING:
            signal.signal(later, signal.SIG_IGN)
        raise SystemExit(128 + number)

    for number in _ENDING:
        signal.signal(number, end)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="pairs of runs of each figure (default: 3)")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), help="these groups (default: all)")
    parser.add_argument("--json", action="store_true", help="print the JSON document instead of the table")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "results", help="where the JSON is kept")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    end_on_signals()
    figures = measure(arguments.only, arguments.runs)
    path = report.write(figures, arguments.folder)
    if arguments.json:
        print(report.as_json(figures))
    else:
        report.print_table(figures)
        print(f"The same as JSON: {path}")


if __name__ == "__main__":
    main()
