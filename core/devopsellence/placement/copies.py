"""Existing copies of services with replicas, ranked: of surplus copies, those with the lowest rank leave.

The choice of nodes is recorded in the Rollout before anything follows from it (``Rollout.replicas``), and a recorded
copy that has settled once ranks above all others, whatever it is doing at the moment. So every plan on the way confirms
the plan before, wherever the controller was interrupted. ``ranked_copies`` reads the records, ``record_choice`` makes
the next one; both are pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import IntEnum

from devopsellence.api.v1.stored_pb2 import Assignment, AssignmentStatus, ReplicaNodes, ServiceStatus
from devopsellence.api.v1.workload_pb2 import Service


class CopyRank(IntEnum):
    """Claim of a copy to stay."""

    #: Assigned; it has not settled, as far as is known.
    NEW = 0
    #: Chosen and assigned; it has not settled yet.
    PENDING = 1
    #: It settled, and is not among the chosen copies.
    SETTLED = 2
    #: Chosen, and it has settled since.
    CHOSEN = 3


class CopyState(IntEnum):
    """State of a copy, as far as is known."""

    #: Nothing, as far as is known.
    UNKNOWN = 0
    #: The copy ran at the last report of its node, before the assignment changed.
    RAN = 1
    #: The copy runs as assigned.
    RUNS = 2
    #: The copy runs as in the release.
    CURRENT = 3


@dataclass(frozen=True, slots=True)
class Copy:
    """Copy of a service on a node. ``age``: the smallest is the oldest, among copies of equal rank."""

    rank: CopyRank
    state: CopyState = CopyState.UNKNOWN
    age: int = 0


@dataclass(frozen=True, slots=True)
class HeldCopies:
    """Existing copies of the services with replicas, and the choice recorded last."""

    #: By service name and node name.
    copies: Mapping[str, Mapping[str, Copy]] = field(default_factory=dict)
    #: Chosen nodes by service name, with and without a copy.
    chosen: Mapping[str, AbstractSet[str]] = field(default_factory=dict)

    def of(self, service: str) -> Mapping[str, Copy]:
        """Return the copies of ``service`` by node name."""
        return self.copies.get(service, {})


@dataclass(frozen=True, slots=True)
class NodeRecords:
    """Records of one attached node in one environment."""

    name: str
    #: ``Node.uid``; "" if the Node cannot be read.
    uid: str
    assignment: Assignment | None
    status: AssignmentStatus | None
    reachable: bool
    #: etcd's revision at which the node got its first assignment of the environment; 0: unknown.
    since: int = 0
    #: There is a status that cannot be read: its copies count as running.
    status_unreadable: bool = False


def is_settled(service: ServiceStatus) -> bool:
    """Return whether a service runs as assigned, healthy if probed, or has completed as its dependents require."""
    return (service.phase == ServiceStatus.COMPLETED and not service.failed) or (
        service.phase == ServiceStatus.RUNNING
        and not service.failed
        and service.health not in (ServiceStatus.CHECKING, ServiceStatus.UNHEALTHY)
    )


def ranked_copies(
    services: Iterable[Service], nodes: Iterable[NodeRecords], recorded: Iterable[ReplicaNodes], release: int
) -> HeldCopies:
    """Return the existing copies of those ``services`` that have replicas.

    ``recorded`` is the choice recorded last, ``release`` the number of the release to place.
    """
    copies: dict[str, dict[str, Copy]] = {service.name: {} for service in services if service.replicas}
    choices = {choice.service: _ages(choice) for choice in recorded if choice.service in copies}
    for node in nodes if copies else ():
        for name in _services_on(node) & copies.keys():
            copies[name][node.name] = _copy(node, name, choices.get(name, {}), release)
    return HeldCopies(copies, {name: ages.keys() for name, ages in choices.items()})


def record_choice(
    service: str, nodes: Iterable[str], held: HeldCopies, recorded: Iterable[ReplicaNodes]
) -> ReplicaNodes:
    """Return the record of the ``nodes`` chosen for ``service``: the copies that have settled, and the others."""
    before = next((choice for choice in recorded if choice.service == service), ReplicaNodes())
    copies, left = held.of(service), set(nodes)
    settled = [node for node in before.settled if node in left and not _is_gone(copies.get(node))]
    left.difference_update(settled)
    # Without a record, a copy that ran at the last report counts: its assignment may just have changed.
    enough = CopyState.RUNS if before.service else CopyState.RAN
    new = [node for node in left if node in copies and copies[node].state >= enough]
    settled += sorted(new, key=lambda node: (copies[node].age, node))
    left.difference_update(new)
    pending = [node for node in before.pending if node in left]
    left.difference_update(pending)
    return ReplicaNodes(service=service, settled=settled, pending=[*pending, *sorted(left)])


def _services_on(node: NodeRecords) -> set[str]:
    """Return the services assigned to the node; without a readable assignment, the services that it reports."""
    if node.assignment is not None:
        return set() if node.assignment.removed else {service.name for service in node.assignment.services}
    return {service.name for service in node.status.services} if node.status is not None else set()


def _ages(choice: ReplicaNodes) -> dict[str, tuple[CopyRank, int]]:
    """Return the rank and the age of each chosen node's copy."""
    ranks = [(name, CopyRank.CHOSEN) for name in choice.settled] + [(name, CopyRank.PENDING) for name in choice.pending]
    return {name: (rank, age) for age, (name, rank) in enumerate(ranks)}


def _copy(node: NodeRecords, service: str, chosen: Mapping[str, tuple[CopyRank, int]], release: int) -> Copy:
    if node.assignment is not None and node.uid and node.assignment.node_uid != node.uid:
        # Assigned to a machine that has been replaced, and its data with it.
        return Copy(CopyRank.NEW, age=node.since)
    state = _state(node, service, release)
    if node.name in chosen:
        rank, age = chosen[node.name]
        return Copy(CopyRank.CHOSEN if state >= CopyState.RUNS else rank, state, age)
    return Copy(CopyRank.SETTLED if state else CopyRank.NEW, state, node.since)


def _is_gone(copy: Copy | None) -> bool:
    return copy is not None and copy.rank is CopyRank.NEW


def _state(node: NodeRecords, service: str, release: int) -> CopyState:
    assignment, status = node.assignment, node.status
    if assignment is None or not node.reachable:
        return CopyState.UNKNOWN
    if status is None:
        return CopyState.RAN if node.status_unreadable else CopyState.UNKNOWN
    if status.node_uid != assignment.node_uid or not any(
        reported.name == service and is_settled(reported) for reported in status.services
    ):
        return CopyState.UNKNOWN
    if status.generation != assignment.generation:
        return CopyState.RAN
    return CopyState.CURRENT if assignment.release == release else CopyState.RUNS
