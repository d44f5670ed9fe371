"""How a service is asked whether it is ready: its health check and its readiness, in one form. Pure.

Both are asked for as long as the container runs, and a service is healthy while all of them pass. Kubernetes' readiness
probe is the model, with Compose's names for the figures.
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
    """Seconds, except ``retries``: how many failures in a row make a container unhealthy that has been healthy."""

    interval: float = 5.0
    timeout: float = 2.0
    retries: int = 3
    start_period: float = 1.0

    @classmethod
    def of(cls, check: workload_pb2.HealthCheck | workload_pb2.Readiness) -> ProbeTiming:
        """The timing of a check; what is not set has the configuration's defaults."""
        usual = cls()
        return cls(
            max(_SHORTEST, _seconds(check.interval)) if check.HasField("interval") else usual.interval,
            max(_SHORTEST, _seconds(check.timeout)) if check.HasField("timeout") else usual.timeout,
            check.retries or usual.retries,
            _seconds(check.start_period) if check.HasField("start_period") else usual.start_period,
        )

    @property
    def allowance(self) -> float:
        """How long a container has after its start until it must have passed once."""
        return self.start_period + self.retries * self.interval + self.timeout


@dataclass(frozen=True, slots=True)
class Probe:
    """One question, and how often it is put: a ``command`` in the container (exit code 0 passes), else ``path`` on
    ``port`` by HTTP (200 to 399 passes), else a TCP connection to ``port``."""

    timing: ProbeTiming
    command: tuple[str, ...] = ()
    port: int = 0
    path: str = ""


def probes_of(service: workload_pb2.Service) -> tuple[Probe, ...]:
    """All that is asked of a service; empty: it is ready as soon as it runs."""
    found: list[Probe] = []
    if service.HasField("healthcheck"):
        check = service.healthcheck
        found.append(Probe(ProbeTiming.of(check), port=check.port, path=check.path or "/"))
    if service.HasField("readiness"):
        found.append(_readiness(service.readiness))
    return tuple(found)


def probe_problem(service: workload_pb2.Service) -> str:
    """Why a service's checks cannot be carried out, in a sentence; empty if they can."""
    if service.HasField("readiness"):
        ready = service.readiness
        if [bool(ready.command), bool(ready.tcp_port), ready.HasField("http")].count(True) != 1:
            return "its readiness must be one of a command, a TCP port and a path"
    for probe in probes_of(service):
        if not probe.command and not 0 < probe.port < 65536:
            return f"its health check names no port ({probe.port})"
        if not _PATH.match(probe.path or "/"):
            return f"its health check's path {probe.path!r} is not one that HTTP can ask for"
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
