"""Existing copies of services with replicas, and unreachable nodes, as the controller reads them.

Preflight checks, plan and previews place with the code and the records that the controller uses, so that the plan that
is shown is the plan that runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from devopsellence.api.v1.stored_pb2 import Assignment, AssignmentStatus, Heartbeat, Node, ReplicaNodes, Rollout
from devopsellence.api.v1.workload_pb2 import Service
from devopsellence.cli.store.reader import Reader
from devopsellence.cli.store.snapshot import UnreadableKey
from devopsellence.placement import (
    FILTERS,
    Filter,
    HeldCopies,
    NodeRecords,
    Placement,
    UnreachableFilter,
    compute_placement,
    ranked_copies,
)
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef


@dataclass(frozen=True)
class CurrentCopies:
    """Services that run now, by node; empty if nothing had to be read, see :func:`read_copies`."""

    assigned: Mapping[str, Assignment] = field(default_factory=dict)
    held: HeldCopies = field(default_factory=HeldCopies)
    unreachable: frozenset[str] = frozenset()
    #: Assignments that cannot be read, by node.
    unreadable: Mapping[str, UnreadableKey] = field(default_factory=dict)

    @property
    def filters(self) -> tuple[Filter, ...]:
        """All placement filters, with no new replicas on unreachable nodes.

        Moving existing replicas away is decided by the controller, which knows since when a node is unreachable.
        """
        return (*FILTERS, UnreachableFilter(dict.fromkeys(self.unreachable, "unreachable")))

    def place(self, services: Sequence[Service], nodes: Sequence[Node]) -> Placement:
        """Return the placement that the controller will choose."""
        return compute_placement(services, nodes, self.held, self.filters)

    def place_when_reachable(self, services: Sequence[Service], nodes: Sequence[Node]) -> Placement:
        """Return the placement as if all nodes were reachable."""
        return compute_placement(services, nodes, self.held)


def with_replicas(services: Iterable[Service]) -> list[Service]:
    """Return the services with a number of replicas."""
    return [service for service in services if service.replicas]


def current_copies(
    services: Sequence[Service],
    nodes: Sequence[Node],
    assigned: Mapping[str, Assignment],
    *,
    created: Mapping[str, int] | None = None,
    statuses: Mapping[str, AssignmentStatus] | None = None,
    unreachable: frozenset[str] = frozenset(),
    recorded: Sequence[ReplicaNodes] = (),
    release: int = 0,
) -> CurrentCopies:
    """Return the copies from records by node; ``created`` are the revisions at which the assignments were created.

    ``release`` is the number of the release to place; 0: not written yet. Pure.
    """
    records = [
        NodeRecords(
            node.name,
            node.uid,
            assigned.get(node.name),
            (statuses or {}).get(node.name),
            node.name not in unreachable,
            (created or {}).get(node.name, 0),
        )
        for node in nodes
    ]
    return CurrentCopies(assigned, ranked_copies(services, records, recorded, release), unreachable)


async def read_copies(
    etcd: Etcd,
    ref: EnvironmentRef,
    services: Sequence[Service],
    nodes: Sequence[Node],
    *,
    release: int = 0,
    assignments: bool = False,
) -> CurrentCopies:
    """Return the copies on ``nodes``; reads nothing unless a service has replicas, or ``assignments`` are asked for."""
    if not with_replicas(services) and not assignments:
        return CurrentCopies()
    reader, keys = Reader(etcd), etcd.keys
    assignment_keys = {node.name: keys.assignment(node.name, ref) for node in nodes}
    stored = await reader.get_created(assignment_keys, Assignment)
    problems = {problem.key: problem for problem in reader.problems}
    unreadable = {name: problems[key] for name, key in assignment_keys.items() if key in problems}
    assigned = {name: message for name, (message, _) in stored.items()}
    statuses, unreachable, rollout = await asyncio.gather(
        reader.get_many({node.name: keys.status(node.name, ref) for node in nodes}, AssignmentStatus),
        unreachable_nodes(etcd, nodes),
        reader.get(keys.rollout(ref), Rollout),
    )
    found = current_copies(
        services,
        nodes,
        assigned,
        created={name: revision for name, (_, revision) in stored.items()},
        statuses=statuses,
        unreachable=unreachable,
        recorded=rollout.replicas if rollout is not None else (),
        release=release,
    )
    return CurrentCopies(assigned, found.held, unreachable, unreadable)


async def unreachable_nodes(etcd: Etcd, nodes: Sequence[Node]) -> frozenset[str]:
    """Return the names of nodes without a heartbeat of the registered machine, or without a Docker Engine."""
    reader = Reader(etcd)
    beats = await reader.get_many({node.name: etcd.keys.heartbeat(node.name) for node in nodes}, Heartbeat)
    unreadable = {problem.key for problem in reader.problems}
    return frozenset(
        node.name
        for node in nodes
        if etcd.keys.heartbeat(node.name) not in unreadable and not _is_reachable(node, beats.get(node.name))
    )


def _is_reachable(node: Node, beat: Heartbeat | None) -> bool:
    return beat is not None and beat.uid == node.uid and not beat.without_engine
