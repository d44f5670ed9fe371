"""Results of load: percentiles, merging, outages."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from tests.support.load.plan import KEPT, NEW, SLOW
from tests.support.load.result import Failure, Result, Sample, merge_results

SAMPLES = [Sample(float(number), number / 1000, NEW if number % 2 else KEPT) for number in range(1001)]


@pytest.mark.parametrize(("share", "seconds"), [(0.5, 0.5), (0.99, 0.99), (0.999, 0.999)])
def test_percentiles_are_of_all_requests(share: float, seconds: float) -> None:
    assert Result(samples=SAMPLES).percentile(share) == pytest.approx(seconds)


def test_percentiles_can_be_of_a_time_and_of_a_kind() -> None:
    result = Result(samples=SAMPLES)
    assert result.percentile(0.5, since=500.0, before=601.0) == pytest.approx(0.55)
    assert result.percentile(0.001, NEW, since=100.0) == pytest.approx(0.102, abs=0.001)
    assert math.isnan(result.percentile(0.5, SLOW))
    assert Result(samples=[Sample(1.0, 0.2, SLOW)]).percentile(0.99) == 0.2


def test_several_processes_are_one_result() -> None:
    first = Result(Counter(a=2), Counter(kept=2), [Failure(5.0, 0.1, "new-0", 503, "503")], 1, 3, 0.2, SAMPLES[10:])
    second = Result(Counter(a=1, b=1), Counter(new=2), [Failure(4.0, 0.1, "new-0", 0, "gone")], 2, 4, 0.1, SAMPLES[:10])
    both = merge_results([first, second])
    assert both.answered == Counter(a=3, b=1)
    assert both.finished == Counter(kept=2, new=2)
    assert [failure.at for failure in both.failures] == [4.0, 5.0]
    assert (both.failed, both.connections, both.longest_gap, both.requests) == (3, 7, 0.2, 7)
    assert both.samples == SAMPLES


def test_outages_are_summarized_in_a_line() -> None:
    assert Result(finished=Counter(new=3)).outages() == "none failed"
    failures = [Failure(1.0, 0.5, "new-0", 503, "503 no healthy upstream"), Failure(2.0, 1.0, "new-0", 0, "refused")]
    told = Result(finished=Counter(new=3), failures=failures, failed=2).outages()
    assert told == "2 of 5 failed within 2.00 s: 1 x 503 no healthy upstream; 1 x refused"
