"""Health of containers: repeated probes on the event loop, and the combined verdict.

Until its first success a probe runs often (after 25 ms, growing to a second; an exec probe, being more expensive, after
100 ms), so that a cutover does not wait for the interval. After the first success the probe runs at the interval.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import structlog

from devopsellence.clock import Now
from devopsellence.nodeagent.docker.errors import ContainerHung, EngineUnavailable
from devopsellence.nodeagent.docker.model import Container, Health, ProbeVerdict
from devopsellence.nodeagent.health.probe import ProbeCall, ProbePassed
from devopsellence.nodeagent.plan.probe_spec import Probe, ProbeTiming

FIRST_DELAY: Final = 0.025
FIRST_COMMAND_DELAY: Final = 0.1
DELAY_GROWTH: Final = 1.5
MAX_FIRST_DELAY: Final = 1.0
_CHECKING: Final = Health(ProbeVerdict.CHECKING)
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ProbeState:
    """Results of a probe of a container so far, and the delay before the next run. ``began``: monotonic time of the
    first run."""

    timing: ProbeTiming
    began: float
    health: Health = _CHECKING
    failures: int = 0
    delay: float = FIRST_DELAY
    passed_once: bool = False

    def passed(self, now: Now, note: str = "") -> ProbeState:
        """Return the state after a success, with a ``note`` for people."""
        state = replace(self, failures=0, delay=self.timing.interval, passed_once=True)
        return state._with_health(Health(ProbeVerdict.HEALTHY, message=note), now)

    def failed(self, message: str, now: Now) -> ProbeState:
        """Return the state after a failure."""
        failures = self.failures + 1
        if self.passed_once:
            state = replace(self, failures=failures, delay=self.timing.interval)
            bad = failures >= self.timing.retries
            return state._with_health(Health(ProbeVerdict.UNHEALTHY, message=message), now) if bad else state
        if now.mono - self.began >= self.timing.allowance:
            state = replace(self, failures=failures, delay=self.timing.interval)
            return state._with_health(Health(ProbeVerdict.UNHEALTHY, past_start_deadline=True, message=message), now)
        delay = min(self.delay * DELAY_GROWTH, MAX_FIRST_DELAY, self.timing.interval)
        state = replace(self, failures=failures, delay=delay)
        return state._with_health(Health(ProbeVerdict.CHECKING, message=message), now)

    def _with_health(self, health: Health, now: Now) -> ProbeState:
        since = self.health.since if health.verdict is self.health.verdict else now
        return replace(self, health=replace(health, since=since))


def combined_health(healths: Sequence[Health]) -> Health:
    """Combine the health of all probes of a container.

    Healthy since the last probe became healthy, unhealthy since the first became unhealthy. While any probe has neither
    passed yet nor missed the start deadline, failures of the rest do not count: the container has not been healthy yet.
    """
    bad = [health for health in healths if health.verdict is ProbeVerdict.UNHEALTHY]
    message = "; ".join(health.message for health in healths if health.message)
    late = any(health.past_start_deadline for health in bad)
    if not late and any(health.verdict is ProbeVerdict.CHECKING for health in healths):
        return Health(ProbeVerdict.CHECKING, message=message)
    if bad:
        return Health(
            ProbeVerdict.UNHEALTHY, late, message, min((health.since for health in bad), key=lambda since: since.mono)
        )
    return replace(max(healths, key=lambda health: health.since.mono, default=_CHECKING), message=message)


@dataclass(frozen=True, slots=True)
class _Target:
    """A probed run of a container; a new start, address or set of probes is a new target."""

    container: str
    started_at: str
    address: str
    probes: tuple[Probe, ...]


class HealthMonitor:
    """Probes containers. ``make_call(probe, container, address)`` makes the call of a probe; ``changed(environment)``
    is called on the event loop when an environment's health changes; ``clock`` returns the time."""

    def __init__(
        self,
        make_call: Callable[[Probe, str, str], ProbeCall],
        changed: Callable[[str], None],
        clock: Callable[[], Now],
    ) -> None:
        self._make_call = make_call
        self._changed = changed
        self._clock = clock
        self._tasks: dict[str, dict[_Target, asyncio.Task[None]]] = {}
        self._health: dict[str, dict[str, Health]] = {}

    def watch(self, environment: str, network: str, checks: Sequence[tuple[Container, tuple[Probe, ...]]]) -> None:
        """Probe exactly these containers of an environment from now on, continuing the known ones."""
        targets = [
            _Target(container.id, container.started_at, address, probes)
            for container, probes in checks
            if (address := container.address_on(network))
        ]
        tasks = self._tasks.setdefault(environment, {})
        health = self._health.setdefault(environment, {})
        for target in tasks.keys() - targets:
            tasks.pop(target).cancel()
            health.pop(target.container, None)
        for target in targets:
            if target not in tasks:
                tasks[target] = asyncio.create_task(self._follow(environment, target))
        if not tasks:
            del self._tasks[environment], self._health[environment]

    def of(self, environment: str) -> Mapping[str, Health]:
        """Return the health by container id; a missing container has not been probed yet."""
        return self._health.get(environment, {})

    def close(self) -> None:
        """Stop all probes."""
        for tasks in self._tasks.values():
            for task in tasks.values():
                task.cancel()
        self._tasks.clear()

    async def _follow(self, environment: str, target: _Target) -> None:
        healths = dict.fromkeys(target.probes, _CHECKING)

        def record(probe: Probe, health: Health) -> None:
            if target not in self._tasks.get(environment, ()):
                # The result came during cancellation; a later run of the container may be probed by now.
                return
            healths[probe] = health
            before, after = (
                self._health[environment].get(target.container, _CHECKING),
                combined_health(list(healths.values())),
            )
            if after != before:
                self._health[environment][target.container] = after
                self._changed(environment)

        async with asyncio.TaskGroup() as group:
            for probe in healths:
                group.create_task(self._repeat(probe, target, record))

    async def _repeat(self, probe: Probe, target: _Target, record: Callable[[Probe, Health], None]) -> None:
        call = self._make_call(probe, target.container, target.address)
        state = ProbeState(
            probe.timing, self._clock().mono, delay=FIRST_COMMAND_DELAY if probe.command else FIRST_DELAY
        )
        while True:
            try:
                result = await call()
            except (EngineUnavailable, ContainerHung):
                # Says nothing about the program in the container.
                pass
            except Exception:  # noqa: BLE001 - logged with its traceback; the next result counts
                _log.exception("cannot probe a container", container=target.container)
            else:
                if isinstance(result, ProbePassed):
                    state = state.passed(self._clock(), result.note)
                else:
                    state = state.failed(result, self._clock()) if result else state.passed(self._clock())
                record(probe, state.health)
            await asyncio.sleep(state.delay)
