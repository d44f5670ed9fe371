"""HTTP health checks of the containers, from the node, on the event loop.

Kubernetes' readiness probe is the model, with Compose's names for the figures. Until a container has passed once it is
asked often (25 ms, growing to a second), so that a cutover does not wait for an interval; afterwards at the interval.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from devopsellence.api.v1 import workload_pb2
from devopsellence.nodeagent.model import Container, Health, Verdict
from devopsellence.nodeagent.spec import seconds

FIRST_DELAY: Final = 0.025
DELAY_GROWTH: Final = 1.5
LONGEST_FIRST_DELAY: Final = 1.0
_CHECKING: Final = Health(Verdict.CHECKING)
_DEFAULTS: Final = (5.0, 2.0, 3, 1.0)


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds, except ``retries``: how many failures in a row make a container unhealthy that has been healthy."""

    interval: float
    timeout: float
    retries: int
    start_period: float

    @classmethod
    def of(cls, check: workload_pb2.HealthCheck) -> Timing:
        """The timing of a check; what is not set has the configuration's defaults."""
        interval, timeout, retries, start_period = _DEFAULTS
        return cls(
            max(0.05, seconds(check.interval)) if check.HasField("interval") else interval,
            max(0.05, seconds(check.timeout)) if check.HasField("timeout") else timeout,
            check.retries or retries,
            seconds(check.start_period) if check.HasField("start_period") else start_period,
        )

    @property
    def allowance(self) -> float:
        """How long a container has after its start until it must have passed once."""
        return self.start_period + self.retries * self.interval + self.timeout


@dataclass(frozen=True, slots=True)
class Course:
    """The checks of one container so far, and how long to wait for the next. ``since``: when they began (monotonic)."""

    timing: Timing
    since: float
    health: Health = _CHECKING
    failures: int = 0
    delay: float = FIRST_DELAY
    passed_once: bool = False

    def passed(self) -> Course:
        """The course after an answer that passes."""
        return replace(self, health=Health(Verdict.HEALTHY), failures=0, delay=self.timing.interval, passed_once=True)

    def failed(self, message: str, now: float) -> Course:
        """The course after one that does not."""
        failures = self.failures + 1
        if self.passed_once:
            bad = failures >= self.timing.retries
            health = Health(Verdict.UNHEALTHY, message=message) if bad else self.health
            return replace(self, health=health, failures=failures, delay=self.timing.interval)
        if now - self.since >= self.timing.allowance:
            health = Health(Verdict.UNHEALTHY, overdue=True, message=message)
            return replace(self, health=health, failures=failures, delay=self.timing.interval)
        delay = min(self.delay * DELAY_GROWTH, LONGEST_FIRST_DELAY, self.timing.interval)
        return replace(self, health=Health(Verdict.CHECKING, message=message), failures=failures, delay=delay)


@dataclass(frozen=True, slots=True)
class _Target:
    """What is checked; another run of the container, address or check is another target."""

    container: str
    started_at: str
    address: str
    check: bytes


class Monitor:
    """Checks containers. ``changed(env)`` is called on the loop when an environment's health is another."""

    def __init__(self, changed: Callable[[str], None]) -> None:
        self._changed = changed
        self._tasks: dict[str, dict[_Target, asyncio.Task[None]]] = {}
        self._health: dict[str, dict[str, Health]] = {}

    def watch(self, env: str, network: str, checks: Sequence[tuple[Container, workload_pb2.HealthCheck]]) -> None:
        """Check exactly these containers of an environment from now on; those that are checked already go on."""
        targets = {
            _Target(each.id, each.started_at, address, check.SerializeToString(deterministic=True)): check
            for each, check in checks
            if (address := each.address_on(network))
        }
        tasks = self._tasks.setdefault(env, {})
        health = self._health.setdefault(env, {})
        for target in [target for target in tasks if target not in targets]:
            tasks.pop(target).cancel()
            health.pop(target.container, None)
        for target, check in targets.items():
            if target not in tasks:
                tasks[target] = asyncio.create_task(self._follow(env, target, check))
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

    async def _follow(self, env: str, target: _Target, check: workload_pb2.HealthCheck) -> None:
        loop = asyncio.get_running_loop()
        course = Course(Timing.of(check), loop.time())
        path = check.path or "/"
        while True:
            message = await probe(target.address, check.port, path, course.timing.timeout)
            before = course.health
            course = course.failed(message, loop.time()) if message else course.passed()
            if course.health != before:
                self._health[env][target.container] = course.health
                self._changed(env)
            await asyncio.sleep(course.delay)


async def probe(address: str, port: int, path: str, timeout: float) -> str:  # noqa: ASYNC109 - of the whole exchange
    """Ask once, for at most ``timeout`` seconds. Empty if the answer passes (200 to 399), otherwise what is wrong."""
    where = f"GET http://{address}:{port}{path}"
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(address, port, limit=4096)
            writer.write(_request(address, port, path))
            line = await reader.readline()
    except TimeoutError:
        return f"{where}: no answer within {timeout:g} s"
    except ConnectionRefusedError:
        return f"{where}: connection refused"
    except (OSError, ValueError) as error:
        return f"{where}: {getattr(error, 'strerror', None) or error}"
    finally:
        if writer is not None:
            # The rest of the answer is of no interest.
            writer.transport.abort()
    parts = line.split(maxsplit=2)
    if len(parts) < 2 or not parts[0].startswith(b"HTTP/"):
        return f"{where}: what answers does not speak HTTP"
    code = 0
    with suppress(ValueError):
        code = int(parts[1])
    return "" if 200 <= code <= 399 else f"{where}: answered {code}"


def _request(address: str, port: int, path: str) -> bytes:
    return (
        f"GET {path} HTTP/1.1\r\nHost: {address}:{port}\r\nUser-Agent: devopsellence-agent\r\n"
        "Accept: */*\r\nConnection: close\r\n\r\n"
    ).encode()
