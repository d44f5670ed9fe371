"""The course of one probe, and several together."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from devopsellence.clock import Now
from devopsellence.nodeagent.docker.errors import EngineUnavailable
from devopsellence.nodeagent.docker.model import Container, Health, ProbeVerdict
from devopsellence.nodeagent.health.monitor import HealthMonitor, ProbeState, combined_health
from devopsellence.nodeagent.health.probe import ProbeCall
from devopsellence.nodeagent.plan.probe_spec import Probe, ProbeTiming
from tests.unit.nodeagent.support import ENV, container, service, want

TIMING = ProbeTiming(interval=5.0, timeout=2.0, retries=3, start_period=1.0)
HTTP = Probe(TIMING, port=3000, path="/up")
TCP = Probe(TIMING, port=6379)


def at(mono: float) -> Now:
    return Now(mono, 1_000_000.0 + mono)


def failed(course: ProbeState, message: str, *moments: float) -> ProbeState:
    for mono in moments:
        course = course.failed(message, at(mono))
    return course


def test_until_the_first_success_it_is_asked_often() -> None:
    course, delays = ProbeState(TIMING, 0.0), []
    for _ in range(14):
        delays.append(course.delay)
        course = failed(course, "refused", 0.0)
    assert delays[:3] == pytest.approx([0.025, 0.0375, 0.05625])
    assert delays[-1] == 1.0
    assert course.health.verdict is ProbeVerdict.CHECKING
    assert course.health.message == "refused"


def test_a_short_interval_is_never_exceeded() -> None:
    course = failed(ProbeState(ProbeTiming(0.2, 0.1, 3, 0.0), 0.0), "refused", *[0.0] * 20)
    assert course.delay == 0.2


def test_first_success_makes_healthy() -> None:
    course = failed(ProbeState(TIMING, 0.0), "refused", 0.1).passed(at(0.2))
    assert course.health == Health(ProbeVerdict.HEALTHY, since=at(0.2))
    assert course.delay == 5.0
    assert course.passed(at(9.0)).health.since == at(0.2)


def test_never_healthy_in_all_the_time_it_has() -> None:
    course = failed(ProbeState(TIMING, 100.0), "refused", 117.9)
    assert not course.health.past_start_deadline
    course = failed(course, "refused", 118.0)
    assert (course.health.verdict, course.health.past_start_deadline) == (ProbeVerdict.UNHEALTHY, True)
    assert course.passed(at(119.0)).health.verdict is ProbeVerdict.HEALTHY


def test_consecutive_failures_make_unhealthy() -> None:
    course = failed(ProbeState(TIMING, 0.0).passed(at(0.0)), "503", 50.0, 55.0)
    assert course.health.verdict is ProbeVerdict.HEALTHY
    assert failed(course.passed(at(56.0)), "503", 60.0).health.verdict is ProbeVerdict.HEALTHY
    course = failed(course, "503", 60.0)
    assert course.health == Health(ProbeVerdict.UNHEALTHY, past_start_deadline=False, message="503", since=at(60.0))
    assert failed(course, "504", 65.0).health == Health(ProbeVerdict.UNHEALTHY, message="504", since=at(60.0))
    assert course.passed(at(66.0)).health.verdict is ProbeVerdict.HEALTHY


@pytest.mark.parametrize(
    ("healths", "expected"),
    [
        ([], Health(ProbeVerdict.CHECKING)),
        (
            [Health(ProbeVerdict.HEALTHY, since=at(1.0)), Health(ProbeVerdict.HEALTHY, since=at(3.0))],
            Health(ProbeVerdict.HEALTHY, since=at(3.0)),
        ),
        (
            [Health(ProbeVerdict.HEALTHY), Health(ProbeVerdict.CHECKING, message="refused")],
            Health(ProbeVerdict.CHECKING, message="refused"),
        ),
        (
            [
                Health(ProbeVerdict.CHECKING, message="refused"),
                Health(ProbeVerdict.UNHEALTHY, message="503", since=at(2.0)),
            ],
            Health(ProbeVerdict.CHECKING, message="refused; 503"),
        ),
        (
            [Health(ProbeVerdict.CHECKING), Health(ProbeVerdict.UNHEALTHY, past_start_deadline=True, message="503", since=at(2.0))],
            Health(ProbeVerdict.UNHEALTHY, past_start_deadline=True, message="503", since=at(2.0)),
        ),
        (
            [
                Health(ProbeVerdict.UNHEALTHY, message="503", since=at(9.0)),
                Health(ProbeVerdict.UNHEALTHY, message="no answer", since=at(2.0)),
            ],
            Health(ProbeVerdict.UNHEALTHY, message="503; no answer", since=at(2.0)),
        ),
    ],
)
def test_all_probes_have_to_pass(healths: list[Health], expected: Health) -> None:
    assert combined_health(healths) == expected


class Answers:
    """Answers that the test gives, by probe; asking waits for them."""

    def __init__(self) -> None:
        self.given: dict[Probe, asyncio.Queue[str | EngineUnavailable]] = {HTTP: asyncio.Queue(), TCP: asyncio.Queue()}
        self.changes: asyncio.Queue[str] = asyncio.Queue()
        self.monitor = HealthMonitor(self.question, self.changes.put_nowait, lambda: at(1.0))

    def question(self, probe: Probe, _container: str, _address: str) -> ProbeCall:
        async def ask() -> str:
            answer = await self.given[probe].get()
            if isinstance(answer, EngineUnavailable):
                raise answer
            return answer

        return ask

    def watch(self, each: Container, *probes: Probe) -> None:
        self.monitor.watch(str(ENV), want().network, [(each, probes)])

    async def changed(self) -> ProbeVerdict:
        async with asyncio.timeout(20):
            await self.changes.get()
        (found,) = self.monitor.of(str(ENV)).values()
        return found.verdict


async def test_a_container_is_healthy_when_its_last_probe_has_passed() -> None:
    answers = Answers()
    answers.watch(container(service()), HTTP, TCP)
    answers.given[HTTP].put_nowait("")
    answers.given[TCP].put_nowait("refused")
    assert await answers.changed() is ProbeVerdict.CHECKING
    answers.given[TCP].put_nowait("")
    assert await answers.changed() is ProbeVerdict.HEALTHY
    answers.monitor.close()


async def test_an_engine_that_does_not_answer_says_nothing_of_the_container() -> None:
    answers = Answers()
    answers.watch(container(service()), TCP)
    for answer in (EngineUnavailable("gone"), EngineUnavailable("gone"), ""):
        answers.given[TCP].put_nowait(answer)
    assert await answers.changed() is ProbeVerdict.HEALTHY
    answers.monitor.close()


async def test_another_run_of_a_container_is_checked_from_the_start() -> None:
    answers = Answers()
    first = container(service())
    answers.watch(first, TCP)
    answers.given[TCP].put_nowait("")
    assert await answers.changed() is ProbeVerdict.HEALTHY
    answers.watch(replace(first, started_at="2026-01-02T00:00:00Z"), TCP)
    assert answers.monitor.of(str(ENV)) == {}
    answers.given[TCP].put_nowait("refused")
    assert await answers.changed() is ProbeVerdict.CHECKING
    answers.monitor.watch(str(ENV), want().network, [])
    assert answers.monitor.of(str(ENV)) == {}


async def test_an_answer_about_the_run_before_says_nothing_of_the_next_one() -> None:
    answers = Answers()
    first = container(service())
    answers.watch(first, TCP)
    for _ in range(5):  # until the question has been put
        await asyncio.sleep(0)
    # The answer is on its way when the container turns out to run anew.
    answers.given[TCP].put_nowait("")
    answers.watch(replace(first, started_at="2026-01-02T00:00:00Z"), TCP)
    for _ in range(5):
        await asyncio.sleep(0)
    assert answers.monitor.of(str(ENV)) == {}
    answers.given[TCP].put_nowait("refused")
    assert await answers.changed() is ProbeVerdict.CHECKING
    answers.monitor.close()
