"""The course of health checks."""

from __future__ import annotations

import pytest

from devopsellence.api.v1 import workload_pb2
from devopsellence.nodeagent.health import Course, Timing
from devopsellence.nodeagent.model import Verdict

TIMING = Timing(interval=5.0, timeout=2.0, retries=3, start_period=1.0)


def test_defaults() -> None:
    assert Timing.of(workload_pb2.HealthCheck()) == TIMING
    assert TIMING.allowance == 18.0


def test_until_the_first_success_it_is_asked_often() -> None:
    course, delays = Course(TIMING, 0.0), []
    for _ in range(14):
        delays.append(course.delay)
        course = course.failed("refused", 0.0)
    assert delays[:3] == pytest.approx([0.025, 0.0375, 0.05625])
    assert delays[-1] == 1.0
    assert course.health.verdict is Verdict.CHECKING
    assert course.health.message == "refused"


def test_a_short_interval_is_never_exceeded() -> None:
    course = Course(Timing(0.2, 0.1, 3, 0.0), 0.0)
    for _ in range(20):
        course = course.failed("refused", 0.0)
    assert course.delay == 0.2


def test_one_success_makes_it_healthy() -> None:
    course = Course(TIMING, 0.0).failed("refused", 0.1).passed()
    assert course.health.verdict is Verdict.HEALTHY
    assert course.delay == 5.0


def test_never_healthy_in_all_the_time_it_has() -> None:
    course = Course(TIMING, 100.0).failed("refused", 117.9)
    assert not course.health.overdue
    course = course.failed("refused", 118.0)
    assert (course.health.verdict, course.health.overdue) == (Verdict.UNHEALTHY, True)
    assert course.passed().health.verdict is Verdict.HEALTHY


def test_one_that_was_healthy_becomes_unhealthy_after_failures_in_a_row() -> None:
    course = Course(TIMING, 0.0).passed().failed("503", 50.0).failed("503", 55.0)
    assert course.health.verdict is Verdict.HEALTHY
    assert course.passed().failed("503", 60.0).health.verdict is Verdict.HEALTHY
    course = course.failed("503", 60.0)
    assert (course.health.verdict, course.health.overdue) == (Verdict.UNHEALTHY, False)
    assert course.passed().health.verdict is Verdict.HEALTHY
