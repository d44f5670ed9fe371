"""Current placement of services with replicas, and unreachable nodes, for the plan and the preflight checks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet

from devopsellence.api.v1.stored_pb2 import Assignment, Heartbeat, Node
from devopsellence.api.v1.workload_pb2 import Service
from devopsellence.cli.store.reader import Reader
from devopsellence.placement import FILTERS, Filter, HeldCopies, UnreachableFilter, held_copies
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef


def with_replicas(services: Iterable[Service]) -> list[Service]:
    """Return the services with a number of replicas."""
    return [service for service in services if service.replicas]


def placements_held(assigned: Mapping[str, Assignment]) -> HeldCopies:
    """Return the current placement from assignments by node."""
    runs = {node: assignment.services for node, assignment in assigned.items() if not assignment.removed}
    return held_copies({node: [service.name for service in services] for node, services in runs.items()})


def placement_filters(unreachable: AbstractSet[str]) -> tuple[Filter, ...]:
    """Return all placement filters, with no new replicas on ``unreachable`` nodes.

    Moving existing replicas away is decided by the controller.
    """
    return (*FILTERS, UnreachableFilter(dict.fromkeys(unreachable, "unreachable")))


async def assignments(
    etcd: Etcd, ref: EnvironmentRef, services: Iterable[Service], nodes: Sequence[Node]
) -> dict[str, Assignment]:
    """Return the assignments of ``nodes`` by name; reads nothing unless a service has replicas."""
    if not with_replicas(services):
        return {}
    return await Reader(etcd).get_many({node.name: etcd.keys.assignment(node.name, ref) for node in nodes}, Assignment)


async def unreachable_nodes(etcd: Etcd, services: Iterable[Service], nodes: Sequence[Node]) -> frozenset[str]:
    """Return the names of unreachable nodes; reads nothing unless a service has replicas."""
    if not with_replicas(services):
        return frozenset()
    reader = Reader(etcd)
    beats = await reader.get_many({node.name: etcd.keys.heartbeat(node.name) for node in nodes}, Heartbeat)
    unreadable = {problem.key for problem in reader.problems}
    return frozenset(
        node.name
        for node in nodes
        if etcd.keys.heartbeat(node.name) not in unreadable
        and (node.name not in beats or beats[node.name].uid != node.uid)
    )
