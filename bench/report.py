"""Report of figures: a table for people, JSON for comparison with later runs."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

_WIDTH = 170


@dataclass(frozen=True)
class Figure:
    """Measured quantity: values of all runs, with peer and limit.

    ``values`` are in ``unit``; ``peer_values``, if any, were measured in turn, pair by pair. ``limit`` is the goal of
    the project: for the median ratio with a peer, else for the median value.
    """

    name: str
    unit: str
    values: Sequence[float]
    peer: str = ""
    peer_values: Sequence[float] = field(default=())
    limit: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def ratio(self) -> float | None:
        """Return the median of the pairwise ratios; None without a peer."""
        if not self.peer_values:
            return None
        return statistics.median(a / b for a, b in zip(self.values, self.peer_values, strict=True))

    @property
    def within(self) -> bool | None:
        if self.limit is None:
            return None
        return (self.median if self.ratio is None else self.ratio) <= self.limit


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def print_table(figures: Sequence[Figure]) -> None:
    """Print the figures as a table; wider than the terminal rather than cut."""
    console = Console(width=max(_WIDTH, Console().width))
    table = Table(title="devopsellence bench: medians of pairs taken in turn")
    for heading in ("figure", "median", "range", "unit", "against", "its median", "ratio", "limit", "within"):
        table.add_column(heading, justify="left" if heading in ("figure", "unit", "against") else "right", no_wrap=True)
    for figure in figures:
        table.add_row(
            figure.name,
            _number(figure.median),
            f"{_number(min(figure.values))} to {_number(max(figure.values))}",
            figure.unit,
            figure.peer,
            _number(statistics.median(figure.peer_values)) if figure.peer_values else "",
            _number(figure.ratio),
            _number(figure.limit),
            {True: "yes", False: "NO", None: ""}[figure.within],
        )
    console.print(table)


def as_json(figures: Sequence[Figure]) -> str:
    """Return a JSON document with machine, time and all figures."""
    return json.dumps(
        {
            "schema_version": 1,
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": {"system": platform.platform(), "python": platform.python_version()},
            "figures": [
                {**asdict(figure), "median": figure.median, "ratio": figure.ratio, "within": figure.within}
                for figure in figures
            ],
        },
        indent=2,
    )


def write(figures: Sequence[Figure], folder: Path) -> Path:
    """Write the figures as JSON into ``folder`` and return the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / time.strftime("%Y%m%dT%H%M%SZ.json", time.gmtime())
    path.write_text(as_json(figures) + "\n")
    return path
