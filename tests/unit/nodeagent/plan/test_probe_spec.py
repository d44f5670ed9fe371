"""Probes from the health check and readiness of a service."""

from __future__ import annotations

import pytest

from devopsellence.api.v1 import workload_pb2
from devopsellence.nodeagent.plan.probe_spec import Probe, ProbeTiming, probe_problem, probes_of
from tests.unit.nodeagent.planning import service


def ready(**fields: object) -> workload_pb2.Service:
    spec = service()
    spec.readiness.CopyFrom(workload_pb2.Readiness(**fields))  # type: ignore[arg-type]
    return spec


def test_service_without_checks_has_no_probes() -> None:
    assert probes_of(service()) == ()


def test_probe_timing_defaults() -> None:
    (probe,) = probes_of(service(check=True))
    assert probe == Probe(ProbeTiming(5.0, 2.0, 3, 1.0), port=3000, path="/up")
    assert probe.timing.allowance == 18.0


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"command": ["redis-cli", "ping"]}, Probe(ProbeTiming(), command=("redis-cli", "ping"))),
        ({"tcp_port": 6379, "retries": 7}, Probe(ProbeTiming(retries=7), port=6379)),
        ({"http": workload_pb2.HttpGet(port=80)}, Probe(ProbeTiming(), port=80, path="/")),
        ({"http": workload_pb2.HttpGet(port=80, path="/ready")}, Probe(ProbeTiming(), port=80, path="/ready")),
    ],
)
def test_readiness_by_exec_http_and_tcp(fields: dict[str, object], expected: Probe) -> None:
    assert probes_of(ready(**fields)) == (expected,)
    assert probe_problem(ready(**fields)) == ""


def test_probe_timing_has_a_minimum() -> None:
    spec = ready(tcp_port=1)
    spec.readiness.interval.FromMilliseconds(1)
    spec.readiness.timeout.FromMilliseconds(1500)
    spec.readiness.start_period.FromSeconds(0)
    (probe,) = probes_of(spec)
    assert probe.timing == ProbeTiming(0.05, 1.5, 3, 0.0)


def test_health_check_and_readiness_are_both_probes() -> None:
    spec = ready(tcp_port=6379)
    spec.healthcheck.port = 80
    assert [(each.port, each.path) for each in probes_of(spec)] == [(80, "/"), (6379, "")]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "one of a command, a TCP port and a path"),
        ({"command": ["true"], "tcp_port": 1}, "one of a command, a TCP port and a path"),
        ({"tcp_port": 70000}, "70000"),
        ({"http": workload_pb2.HttpGet(path="/up")}, "names no port"),
        ({"http": workload_pb2.HttpGet(path="up", port=80)}, "'up'"),
        ({"http": workload_pb2.HttpGet(path="/a b\r\nX: y", port=80)}, "is not a valid HTTP path"),
    ],
)
def test_invalid_probe_is_a_problem(fields: dict[str, object], says: str) -> None:
    assert says in probe_problem(ready(**fields))
