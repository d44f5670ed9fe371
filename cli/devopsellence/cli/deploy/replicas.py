"""What the command line must know of the nodes where services have a number of replicas: who runs what, who answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet

from devopsellence.api.v1.stored_pb2 import Assignment, Heartbeat, Node
from devopsellence.api.v1.workload_pb2 import Service
from devopsellence.cli.store.reader import Reader
from devopsellence.placement import FILTERS, Filter, Held, UnreachableFilter, held_by
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef


def with_replicas(services: Iterable[Service]) -> list[Service]:
    """Those of ``services`` that run on a number of nodes, and not on all."""
    return [service for service in services if service.replicas]


def placements_held(assigned: Mapping[str, Assignment]) -> Held:
    """Who has which services, given by node."""
    runs = {node: assignment.services for node, assignment in assigned.items() if not assignment.removed}
    return held_by({node: [service.name for service in services] for node, services in runs.items()})


def placement_filters(silent: AbstractSet[str]) -> tuple[Filter, ...]:
    """All filters, where the nodes ``silent`` do not answer: they are given no replica. When they lose theirs is for
    the controller to know."""
    return (*FILTERS, UnreachableFilter(dict.fromkeys(silent, "unreachable")))


async def assignments(
    etcd: Etcd, ref: EnvironmentRef, services: Iterable[Service], nodes: Sequence[Node]
) -> dict[str, Assignment]:
    """What ``nodes`` are assigned, by name; nothing is read unless one of ``services`` has replicas."""
    if not with_replicas(services):
        return {}
    return await Reader(etcd).get_many({node.name: etcd.keys.assignment(node.name, ref) for node in nodes}, Assignment)


async def unreachable_nodes(etcd: Etcd, services: Iterable[Service], nodes: Sequence[Node]) -> frozenset[str]:
    """The ``nodes`` whose agents do not answer; nothing is read unless one of ``services`` has replicas."""
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
