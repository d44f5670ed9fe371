"""Rolling deploy over three hosts under load: duration, and failed requests.

Uses the test bed of several hosts; needs root and takes about a minute.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bench.report import Figure
from tests.support.cluster.app import App
from tests.support.cluster.audit import nothing_amiss
from tests.support.cluster.bed import Bed
from tests.support.cluster.load import Load


@dataclass(frozen=True)
class Rolling:
    """Result of a deploy. ``longest_gap``: longest time between two answers of a host, in seconds."""

    hosts: int
    up_seconds: float
    deploy_seconds: float
    requests: int
    failed: int
    longest_gap: float


def measure(deploys: int = 3) -> list[Rolling]:
    """Deploy ``deploys`` times on a new test bed. AssertionError if the final audit of the bed fails."""
    rollings = []
    with tempfile.TemporaryDirectory(prefix="devopsellence-bench-") as folder:
        began = time.monotonic()
        with Bed(Path(folder) / "bed") as bed:
            up_seconds = time.monotonic() - began
            app = App(bed, Path(folder) / "app", "rolling")
            app.attach(*bed.hosts)
            app.deploy("0")
            for number in range(deploys):
                with Load(app, *bed.hosts) as load:
                    began = time.monotonic()
                    app.deploy(f"{number + 1}")
                    seconds = time.monotonic() - began
                gap = max(result.longest_gap for result in load.results.values())
                rollings.append(Rolling(len(bed.hosts), up_seconds, seconds, load.requests, len(load.failed), gap))
                nothing_amiss(bed)
    return rollings


def all_figures(runs: int) -> list[Figure]:
    """Measure ``runs`` deploys over three hosts under load."""
    rolls = measure(runs)
    return [
        Figure("three hosts: rolling deploy under load", "s", [roll.deploy_seconds for roll in rolls]),
        Figure(
            "three hosts: requests that failed meanwhile", "requests", [float(roll.failed) for roll in rolls], limit=0.0
        ),
        Figure("three hosts: requests answered meanwhile", "requests", [float(roll.requests) for roll in rolls]),
        Figure("three hosts: longest time without an answer", "s", [roll.longest_gap for roll in rolls]),
    ]
