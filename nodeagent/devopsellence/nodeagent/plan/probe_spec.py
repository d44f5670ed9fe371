"""Probes of a service: health check and readiness in one form.

All probes run for as long as the container does; a service is healthy while all of them pass. Modelled on readiness
probes of Kubernetes, with the option names of Compose.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from google.protobuf.duration_pb2 import Duration

from devopsellence.api.v1 import workload_pb2

_SHORTEST: Final = 0.05
_PATH: Final = re.compile(r"/[!-~]*\Z")


@dataclass(frozen=True, slots=True)
class ProbeTiming:
    """Timing in seconds. ``retries``: failures in a row until a healthy container counts as unhealthy."""

    interval: float = 5.0
    timeout: float = 2.0
    retries: int = 3
    start_period: float = 1.0

    @classmethod
    def of(cls, check: workload_pb2.HealthCheck | workload_pb2.Readiness) -> ProbeTiming:
        """Return the timing of a check, with the configuration's defaults for unset fields."""
        default = cls()
        return cls(
            max(_SHORTEST, _seconds(check.interval)) if check.HasField("interval") else default.interval,
            max(_SHORTEST, _seconds(check.timeout)) if check.HasField("timeout") else default.timeout,
            check.retries or default.retries,
            _seconds(check.start_period) if check.HasField("start_period") else default.start_period,
        )

    @property
    def allowance(self) -> float:
        """Time from a container's start within which all probes must have passed once."""
        return self.start_period + self.retries * self.interval + self.timeout


@dataclass(frozen=True, slots=True)
class Probe:
    """Exec, HTTP or TCP probe.

    With a ``command``: run in the container, exit code 0 passes. Else with a ``path``: HTTP request to ``port``, 200 to
    399 passes. Else: TCP connection to ``port``.
    """

    timing: ProbeTiming
    command: tuple[str, ...] = ()
    port: int = 0
    path: str = ""


def probes_of(service: workload_pb2.Service) -> tuple[Probe, ...]:
    """Return all probes of a service; without any, the service is ready as soon as it runs."""
    probes: list[Probe] = []
    if service.HasField("healthcheck"):
        check = service.healthcheck
        probes.append(Probe(ProbeTiming.of(check), port=check.port, path=check.path or "/"))
    if service.HasField("readiness"):
        probes.append(_readiness(service.readiness))
    return tuple(probes)


def probe_problem(service: workload_pb2.Service) -> str:
    """Return the reason why a service's probes cannot run; empty if they can."""
    if service.HasField("readiness"):
        ready = service.readiness
        if [bool(ready.command), bool(ready.tcp_port), ready.HasField("http")].count(True) != 1:
            return "its readiness must be one of a command, a TCP port and a path"
    for probe in probes_of(service):
        if not probe.command and not 0 < probe.port < 65536:
            return f"its health check names no port ({probe.port})"
        if not _PATH.match(probe.path or "/"):
            return f"its health check's path {probe.path!r} is not a valid HTTP path"
    return ""


def _seconds(duration: Duration) -> float:
    return duration.ToTimedelta().total_seconds()


def _readiness(ready: workload_pb2.Readiness) -> Probe:
    timing = ProbeTiming.of(ready)
    if ready.command:
        return Probe(timing, command=tuple(ready.command))
    if ready.HasField("http"):
        return Probe(timing, port=ready.http.port, path=ready.http.path or "/")
    return Probe(timing, port=ready.tcp_port)
