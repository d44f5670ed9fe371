"""State of a probe, and the combined health of several probes."""

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
from tests.unit.nodeagent.planning import ENV, container, desired_of, service

TIMING = ProbeTiming(interval=5.0, timeout=2.0, retries=3, start_period=1.0)
HTTP = Probe(TIMING, port=3000, path="/up")
TCP = Probe(TIMING, port=6379)


def at(mono: float) -> Now:
    return Now(mono, 1_000_000.0 + mono)


def failed(state: ProbeState, message: str, *moments: float) -> ProbeState:
    for mono in moments:
        state = state.failed(message, at(mono))
    return state


def test_probe_runs_often_before_the_first_success() -> None:
    state, delays = ProbeState(TIMING, 0.0), []
    for _ in range(14):
        delays.append(state.delay)
        state = failed(state, "refused", 0.0)
    assert delays[:3] == pytest.approx([0.025, 0.0375, 0.05625])
    assert delays[-1] == 1.0
    assert state.health.verdict is ProbeVerdict.CHECKING
    assert state.health.message == "refused"


def test_delay_never_exceeds_a_short_interval() -> None:
    state = failed(ProbeState(ProbeTiming(0.2, 0.1, 3, 0.0), 0.0), "refused", *[0.0] * 20)
    assert state.delay == 0.2


def test_first_success_makes_healthy() -> None:
    state = failed(ProbeState(TIMING, 0.0), "refused", 0.1).passed(at(0.2))
    assert state.health == Health(ProbeVerdict.HEALTHY, since=at(0.2))
    assert state.delay == 5.0
    assert state.passed(at(9.0)).health.since == at(0.2)


def test_start_deadline_makes_unhealthy() -> None:
    state = failed(ProbeState(TIMING, 100.0), "refused", 117.9)
    assert not state.health.past_start_deadline
    state = failed(state, "refused", 118.0)
    assert (state.health.verdict, state.health.past_start_deadline) == (ProbeVerdict.UNHEALTHY, True)
    assert state.passed(at(119.0)).health.verdict is ProbeVerdict.HEALTHY


def test_consecutive_failures_make_unhealthy() -> None:
    state = failed(ProbeState(TIMING, 0.0).passed(at(0.0)), "503", 50.0, 55.0)
    assert state.health.verdict is ProbeVerdict.HEALTHY
    assert failed(state.passed(at(56.0)), "503", 60.0).health.verdict is ProbeVerdict.HEALTHY
    state = failed(state, "503", 60.0)
    assert state.health == Health(ProbeVerdict.UNHEALTHY, past_start_deadline=False, message="503", since=at(60.0))
    assert failed(state, "504", 65.0).health == Health(ProbeVerdict.UNHEALTHY, message="504", since=at(60.0))
    assert state.passed(at(66.0)).health.verdict is ProbeVerdict.HEALTHY


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
            [
                Health(ProbeVerdict.CHECKING),
                Health(ProbeVerdict.UNHEALTHY, past_start_deadline=True, message="503", since=at(2.0)),
            ],
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
def test_combined_health_needs_all_probes(healths: list[Health], expected: Health) -> None:
    assert combined_health(healths) == expected


class ScriptedProbes:
    """Probe calls that wait for results from the test."""

    def __init__(self) -> None:
        self.results: dict[Probe, asyncio.Queue[str | EngineUnavailable]] = {
            HTTP: asyncio.Queue(),
            TCP: asyncio.Queue(),
        }
        self.changes: asyncio.Queue[str] = asyncio.Queue()
        self.monitor = HealthMonitor(self.make_call, self.changes.put_nowait, lambda: at(1.0))

    def make_call(self, probe: Probe, _container: str, _address: str) -> ProbeCall:
        async def ask() -> str:
            answer = await self.results[probe].get()
            if isinstance(answer, EngineUnavailable):
                raise answer
            return answer

        return ask

    def watch(self, target: Container, *probes: Probe) -> None:
        self.monitor.watch(str(ENV), desired_of().network, [(target, probes)])

    async def changed(self) -> ProbeVerdict:
        async with asyncio.timeout(20):
            await self.changes.get()
        (health,) = self.monitor.of(str(ENV)).values()
        return health.verdict


async def test_container_is_healthy_after_its_last_probe() -> None:
    probes = ScriptedProbes()
    probes.watch(container(service()), HTTP, TCP)
    probes.results[HTTP].put_nowait("")
    probes.results[TCP].put_nowait("refused")
    assert await probes.changed() is ProbeVerdict.CHECKING
    probes.results[TCP].put_nowait("")
    assert await probes.changed() is ProbeVerdict.HEALTHY
    probes.monitor.close()


async def test_unavailable_engine_leaves_the_verdict_open() -> None:
    probes = ScriptedProbes()
    probes.watch(container(service()), TCP)
    for answer in (EngineUnavailable("gone"), EngineUnavailable("gone"), ""):
        probes.results[TCP].put_nowait(answer)
    assert await probes.changed() is ProbeVerdict.HEALTHY
    probes.monitor.close()


async def test_restarted_container_is_probed_from_the_start() -> None:
    probes = ScriptedProbes()
    first = container(service())
    probes.watch(first, TCP)
    probes.results[TCP].put_nowait("")
    assert await probes.changed() is ProbeVerdict.HEALTHY
    probes.watch(replace(first, started_at="2026-01-02T00:00:00Z"), TCP)
    assert probes.monitor.of(str(ENV)) == {}
    probes.results[TCP].put_nowait("refused")
    assert await probes.changed() is ProbeVerdict.CHECKING
    probes.monitor.watch(str(ENV), desired_of().network, [])
    assert probes.monitor.of(str(ENV)) == {}


async def test_late_result_of_the_previous_run_is_ignored() -> None:
    probes = ScriptedProbes()
    first = container(service())
    probes.watch(first, TCP)
    for _ in range(5):  # until the make_call has been put
        await asyncio.sleep(0)
    # The result arrives just when the container turns out to be restarted.
    probes.results[TCP].put_nowait("")
    probes.watch(replace(first, started_at="2026-01-02T00:00:00Z"), TCP)
    for _ in range(5):
        await asyncio.sleep(0)
    assert probes.monitor.of(str(ENV)) == {}
    probes.results[TCP].put_nowait("refused")
    assert await probes.changed() is ProbeVerdict.CHECKING
    probes.monitor.close()
