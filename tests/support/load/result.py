"""Observations of clients, as data."""

from __future__ import annotations

import json
import statistics
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.load.plan import KINDS


@dataclass(frozen=True)
class Failure:
    """Failed request. ``at``: due time, seconds since the epoch. ``status``: 0 without an answer."""

    at: float
    seconds: float
    client: str
    status: int
    error: str

    def __str__(self) -> str:
        return f"{self.client} at {self.at:.2f} after {self.seconds:.3f} s: {self.error}"


@dataclass(frozen=True)
class Sample:
    """Answered request: due time, seconds until the answer, kind of connection."""

    at: float
    seconds: float
    kind: str


@dataclass(frozen=True)
class Result:
    """Outcome of a plan.

    ``answered``: requests by version of the service. ``finished``: requests by kind. ``failures``: the first few
    thousand of all ``failed``. ``longest_gap``: seconds between two answers to kept and new clients.
    """

    answered: Counter[str] = field(default_factory=Counter)
    finished: Counter[str] = field(default_factory=Counter)
    failures: Sequence[Failure] = ()
    failed: int = 0
    connections: int = 0
    longest_gap: float = 0.0
    samples: Sequence[Sample] = field(default=(), repr=False)

    @property
    def requests(self) -> int:
        return sum(self.finished.values()) + self.failed

    def percentile(self, share: float, *kinds: str, since: float = 0.0, before: float = float("inf")) -> float:
        """Return the time in seconds below which ``share`` (0.99) of the requests due between two moments were
        answered.
        """
        chosen = [
            sample.seconds for sample in self.samples if since <= sample.at < before and sample.kind in (kinds or KINDS)
        ]
        if len(chosen) < 2:
            return chosen[0] if chosen else float("nan")
        return statistics.quantiles(chosen, n=1000, method="inclusive")[round(share * 1000) - 1]

    def outages(self) -> str:
        """Describe the failures for people: number, time span and errors."""
        if not self.failures:
            return "none failed"
        first, last = self.failures[0].at, max(failure.at + failure.seconds for failure in self.failures)
        kinds = Counter(failure.error for failure in self.failures).most_common(3)
        words = "; ".join(f"{count} x {error}" for error, count in kinds)
        return f"{self.failed} of {self.requests} failed within {last - first:.2f} s: {words}"


def read_report(report: Path) -> dict[str, Any]:
    """Return the report of clients so far; empty before the first report."""
    content: dict[str, Any] = json.loads(report.read_text()) if report.exists() else {}
    return content


def read_result(report: Path) -> Result:
    """Return the outcome of clients that have ended; AssertionError if the clients ended early."""
    fields = read_report(report)
    assert fields.pop("done", False), f"the clients of {report} have not come to an end"
    values = array("d")
    content = report.with_suffix(".samples").read_bytes()
    values.frombytes(content)
    threes = zip(values[0::3], values[1::3], values[2::3], strict=True)
    return Result(
        answered=Counter(fields["answered"]),
        finished=Counter(fields["finished"]),
        failures=[Failure(**failure) for failure in fields["failures"]],
        failed=fields["failed"],
        connections=fields["connections"],
        longest_gap=fields["longest_gap"],
        samples=[Sample(at, seconds, KINDS[int(kind)]) for at, seconds, kind in threes],
    )


def merge_results(results: Iterable[Result]) -> Result:
    """Merge the outcomes of several processes with the same service."""
    parts = list(results)
    return Result(
        answered=sum((part.answered for part in parts), Counter()),
        finished=sum((part.finished for part in parts), Counter()),
        failures=sorted((failure for part in parts for failure in part.failures), key=lambda failure: failure.at),
        failed=sum(part.failed for part in parts),
        connections=sum(part.connections for part in parts),
        longest_gap=max((part.longest_gap for part in parts), default=0.0),
        samples=sorted((sample for part in parts for sample in part.samples), key=lambda sample: sample.at),
    )
