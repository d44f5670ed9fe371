"""The health of containers: their probes asked again and again on the event loop, and what the answers amount to.

Until a probe has passed once it is asked often (after 25 ms, growing to a second; a command, which costs more, after
100 ms), so that a cutover does not wait for an interval; afterwards at the interval, for as long as the container runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import structlog

from devopsellence.clock import Now
from devopsellence.nodeagent.docker.errors import EngineUnavailable
from devopsellence.nodeagent.docker.model import Container, Health, ProbeVerdict
from devopsellence.nodeagent.health.probe import ProbeCall
from devopsellence.nodeagent.plan.probe_spec import Probe, ProbeTiming

FIRST_DELAY: Final = 0.025
FIRST_COMMAND_DELAY: Final = 0.1
DELAY_GROWTH: Final = 1.5
LONGEST_FIRST_DELAY: Final = 1.0
_CHECKING: Final = Health(ProbeVerdict.CHECKING)
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ProbeState:
    """One probe of one container so far, and how long to wait for the next. ``began``: when it was first asked
    (monotonic)."""

    timing: ProbeTiming
    began: float
    health: Health = _CHECKING
    failures: int = 0
    delay: float = FIRST_DELAY
    passed_once: bool = False

    def passed(self, now: Now) -> ProbeState:
        """The course after an answer that passes."""
        course = replace(self, failures=0, delay=self.timing.interval, passed_once=True)
        return course._now(Health(ProbeVerdict.HEALTHY), now)

    def failed(self, message: str, now: Now) -> ProbeState:
        """The course after one that does not."""
        failures = self.failures + 1
        if self.passed_once:
            course = replace(self, failures=failures, delay=self.timing.interval)
            bad = failures >= self.timing.retries
            return course._now(Health(ProbeVerdict.UNHEALTHY, message=message), now) if bad else course
        if now.mono - self.began >= self.timing.allowance:
            course = replace(self, failures=failures, delay=self.timing.interval)
            return course._now(Health(ProbeVerdict.UNHEALTHY, overdue=True, message=message), now)
        delay = min(self.delay * DELAY_GROWTH, LONGEST_FIRST_DELAY, self.timing.interval)
        course = replace(self, failures=failures, delay=delay)
        return course._now(Health(ProbeVerdict.CHECKING, message=message), now)

    def _now(self, health: Health, now: Now) -> ProbeState:
        since = self.health.since if health.verdict is self.health.verdict else now
        return replace(self, health=replace(health, since=since))


def combined_health(healths: Sequence[Health]) -> Health:
    """All probes of a container together: healthy since the last of them is, unhealthy since the first of them is.
    While one has yet to pass, and has time for it, the others' failures do not count: it has not been healthy yet."""
    bad = [health for health in healths if health.verdict is ProbeVerdict.UNHEALTHY]
    message = "; ".join(health.message for health in healths if health.message)
    overdue = any(each.overdue for each in bad)
    if not overdue and any(health.verdict is ProbeVerdict.CHECKING for health in healths):
        return Health(ProbeVerdict.CHECKING, message=message)
    if bad:
        return Health(
            ProbeVerdict.UNHEALTHY, overdue, message, min((each.since for each in bad), key=lambda at: at.mono)
        )
    return max(healths, key=lambda each: each.since.mono, default=_CHECKING)


@dataclass(frozen=True, slots=True)
class _Target:
    """What is checked; another run of the container, address or probe is another target."""

    container: str
    started_at: str
    address: str
    probes: tuple[Probe, ...]


class HealthMonitor:
    """Checks containers. ``ask`` makes the question of a probe (to a container, at an address); ``changed(env)`` is
    called on the loop when an environment's health is another; ``clock`` tells the time."""

    def __init__(
        self, ask: Callable[[Probe, str, str], ProbeCall], changed: Callable[[str], None], clock: Callable[[], Now]
    ) -> None:
        self._ask = ask
        self._changed = changed
        self._clock = clock
        self._tasks: dict[str, dict[_Target, asyncio.Task[None]]] = {}
        self._health: dict[str, dict[str, Health]] = {}

    def watch(self, env: str, network: str, checks: Sequence[tuple[Container, tuple[Probe, ...]]]) -> None:
        """Check exactly these containers of an environment from now on; those that are checked already go on."""
        targets = [
            _Target(each.id, each.started_at, address, probes)
            for each, probes in checks
            if (address := each.address_on(network))
        ]
        tasks = self._tasks.setdefault(env, {})
        health = self._health.setdefault(env, {})
        for target in tasks.keys() - targets:
            tasks.pop(target).cancel()
            health.pop(target.container, None)
        for target in targets:
            if target not in tasks:
                tasks[target] = asyncio.create_task(self._follow(env, target))
        if not tasks:
            del self._tasks[env], self._health[env]

    def of(self, env: str) -> Mapping[str, Health]:
        """By container id; one that is not here has not been checked yet."""
        return self._health.get(env, {})

    def close(self) -> None:
        """Stop checking."""
        for tasks in self._tasks.values():
            for task in tasks.values():
                task.cancel()
        self._tasks.clear()

    async def _follow(self, env: str, target: _Target) -> None:
        healths = dict.fromkeys(target.probes, _CHECKING)

        def learnt(probe: Probe, health: Health) -> None:
            if target not in self._tasks.get(env, ()):
                # The answer came while this was being cancelled; another run of the container may be checked by now.
                return
            healths[probe] = health
            before, after = self._health[env].get(target.container, _CHECKING), combined_health(list(healths.values()))
            if after != before:
                self._health[env][target.container] = after
                self._changed(env)

        async with asyncio.TaskGroup() as group:
            for probe in healths:
                group.create_task(self._repeat(probe, target, learnt))

    async def _repeat(self, probe: Probe, target: _Target, learnt: Callable[[Probe, Health], None]) -> None:
        ask = self._ask(probe, target.container, target.address)
        course = ProbeState(
            probe.timing, self._clock().mono, delay=FIRST_COMMAND_DELAY if probe.command else FIRST_DELAY
        )
        while True:
            try:
                message = await ask()
            except EngineUnavailable:
                # It tells nothing of the container.
                pass
            except Exception:  # noqa: BLE001 - it is logged with its traceback, and the next answer counts
                _log.exception("a container could not be checked", container=target.container)
            else:
                course = course.failed(message, self._clock()) if message else course.passed(self._clock())
                learnt(probe, course.health)
            await asyncio.sleep(course.delay)
