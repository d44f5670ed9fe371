"""What an ingress refers to: hosts and services. Pure."""

from __future__ import annotations

from collections.abc import Collection

from devopsellence.api.v1 import workload_pb2
from devopsellence.names import HOST


def hosts_of(ingress: workload_pb2.Ingress) -> list[str]:
    """The hosts that it is about, in lower case, sorted; without what can be no host, which no certificate is for."""
    named = {*ingress.hosts, *(rule.host for rule in ingress.rules)}
    return sorted({host.lower() for host in named if HOST.match(host.lower())})


def reaches(ingress: workload_pb2.Ingress, services: Collection[str]) -> bool:
    """Whether a node that runs ``services`` has all that the rules target; where there is no rule, none has."""
    targets = {rule.service for rule in ingress.rules}
    return bool(targets) and targets.issubset(services)
