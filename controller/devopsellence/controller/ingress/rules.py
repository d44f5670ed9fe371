"""Hosts and target services of an ingress. Pure."""

from __future__ import annotations

from collections.abc import Collection

from devopsellence.api.v1 import workload_pb2
from devopsellence.names import HOST


def hosts_of(ingress: workload_pb2.Ingress) -> list[str]:
    """Return the valid hosts of ``ingress`` in lower case, sorted. Invalid hosts never get a certificate."""
    named = {*ingress.hosts, *(rule.host for rule in ingress.rules)}
    return sorted({host.lower() for host in named if HOST.match(host.lower())})


def reaches(ingress: workload_pb2.Ingress, services: Collection[str]) -> bool:
    """Return whether ``services`` include all targets of the rules; False without rules."""
    targets = {rule.service for rule in ingress.rules}
    return bool(targets) and targets.issubset(services)
