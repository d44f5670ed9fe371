"""Hosts that releases, assignments and claims name. Pure."""

from __future__ import annotations

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.api.v1 import workload_pb2
from devopsellence.names import HOST
from devopsellence.store.keys import EnvironmentRef
from devopsellence.store.record import Record, message_of


def hosts_of(ingress: workload_pb2.Ingress) -> list[str]:
    """Return the valid hosts of ``ingress`` in lower case, sorted. Invalid hosts never get a certificate."""
    named = {*ingress.hosts, *(rule.host for rule in ingress.rules)}
    return sorted({host.lower() for host in named if HOST.match(host.lower())})


def assigned_hosts(assignment: pb.Assignment | None) -> frozenset[str]:
    """Return the hosts that an assignment has its node serve."""
    if assignment is None or assignment.removed or not assignment.HasField("ingress"):
        return frozenset()
    return frozenset(hosts_of(assignment.ingress))


def holder(record: Record[pb.HostClaim] | None) -> EnvironmentRef | None:
    """Return the environment that a claim names; None without a claim, or if it cannot be read."""
    claim = message_of(record)
    return EnvironmentRef(claim.organization, claim.project, claim.environment) if claim is not None else None
