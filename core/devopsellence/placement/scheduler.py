"""Scheduler: a node for every copy of a service.

A service runs on every node that may run the service, or with ``replicas`` on that number of nodes. Replicas stay in
place where possible. Missing replicas go to the nodes with the fewest services, then by name. Of surplus replicas, the
oldest that run stay; equally old ones leave the nodes with the most services. So a change moves no unrelated replica.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from devopsellence.api.v1.stored_pb2 import Node
from devopsellence.api.v1.workload_pb2 import Service
from devopsellence.placement.copies import Copy, CopyState, HeldCopies
from devopsellence.placement.filters import FILTERS, Filter, Refusal, how_to_make_room, why_leaves, why_not

_NAMED: Final = 5


@dataclass(frozen=True, slots=True)
class ReplicaPlacement:
    """Nodes for the replicas of a service, at most one replica per node."""

    service: Service
    # Node names, sorted. Includes unknown nodes that have a copy.
    nodes: tuple[str, ...]
    # Chosen nodes that keep an existing copy but take no new one: reason by node name.
    fixed: Mapping[str, str]
    # Rejected nodes: reason by node name.
    refused: Mapping[str, str]

    @property
    def missing_replicas(self) -> int:
        """Return the number of replicas without a node."""
        return max(0, self.service.replicas - len(self.nodes))


@dataclass(frozen=True, slots=True)
class Placement:
    """Placement of all services of an environment."""

    # Service names by node name, for every given node, sorted by name.
    services: Mapping[str, frozenset[str]] = field(default_factory=dict)
    # By service name, only services with replicas.
    replica_placements: Mapping[str, ReplicaPlacement] = field(default_factory=dict)

    def nodes_of(self, service: str) -> tuple[str, ...]:
        """Return the nodes that run ``service``, in the given order."""
        return tuple(node for node, names in self.services.items() if service in names)


def compute_placement(
    services: Iterable[Service], nodes: Sequence[Node], held: HeldCopies, filters: Sequence[Filter] = FILTERS
) -> Placement:
    """Place ``services`` on the attached ``nodes``, keeping the existing copies ``held`` where possible.

    A copy on a node outside of ``nodes`` counts, and stays in place.
    """
    unlimited: list[Service] = []
    replicated: list[Service] = []
    for service in services:
        (replicated if service.replicas else unlimited).append(service)
    cache = _FilterCache(nodes, filters)
    shared: dict[Hashable, frozenset[str]] = {}
    result: dict[str, frozenset[str]] = {}
    for node in nodes:
        fingerprint = cache.fingerprints[node.name]
        if fingerprint not in shared:
            shared[fingerprint] = frozenset(service.name for service in unlimited if not cache.why_not(service, node))
        result[node.name] = shared[fingerprint]
    if not replicated:
        return Placement(result)
    load = {node_name: len(names) for node_name, names in result.items()}
    replica_placements = _ReplicaScheduler(cache, load).place(replicated, held)
    for name, replica_placement in replica_placements.items():
        for node_name in replica_placement.nodes:
            if node_name in result:
                result[node_name] |= {name}
    return Placement(result, replica_placements)


class _FilterCache:
    """Results of the filters, computed once for nodes with equal fingerprints."""

    def __init__(self, nodes: Sequence[Node], filters: Sequence[Filter]) -> None:
        self._filters = filters
        self.nodes = {node.name: node for node in nodes}
        self.fingerprints: dict[str, Hashable] = {
            node.name: tuple(node_filter.fingerprint(node) for node_filter in filters) for node in nodes
        }
        self._rejections: dict[tuple[str, Hashable], str] = {}
        self._removals: dict[tuple[str, Hashable], str] = {}

    def why_not(self, service: Service, node: Node) -> str:
        key = service.name, self.fingerprints[node.name]
        if key not in self._rejections:
            self._rejections[key] = why_not(service, node, self._filters)
        return self._rejections[key]

    def why_leaves(self, service: Service, node: Node) -> str:
        key = service.name, self.fingerprints[node.name]
        if key not in self._removals:
            self._removals[key] = why_leaves(service, node, self._filters)
        return self._removals[key]


class _ReplicaScheduler:
    """Scheduling of all services with replicas; ``load`` is the number of further services on every node."""

    def __init__(self, cache: _FilterCache, load: Mapping[str, int]) -> None:
        self._cache = cache
        self._busy = Counter(load)

    def place(self, services: Iterable[Service], held: HeldCopies) -> dict[str, ReplicaPlacement]:
        ordered = sorted(services, key=lambda service: service.name)
        stays = {service.name: self._stays(service, held.of(service.name)) for service in ordered}
        for names in stays.values():
            self._busy.update(names)
        return {service.name: self._place(service, stays[service.name], held) for service in ordered}

    def _stays(self, service: Service, copies: Iterable[str]) -> list[str]:
        nodes = self._cache.nodes
        return [name for name in copies if name not in nodes or not self._cache.why_leaves(service, nodes[name])]

    def _place(self, service: Service, stays: Sequence[str], held: HeldCopies) -> ReplicaPlacement:
        nodes, busy = self._cache.nodes, self._busy
        refused = {name: clause for name, node in nodes.items() if (clause := self._cache.why_not(service, node))}
        copies, before = held.of(service.name), held.chosen.get(service.name, frozenset())
        # Of copies with equal rank, a copy on an unknown node or on a node that takes no new copies stays.
        best = sorted(
            stays,
            key=lambda name: (
                *_claim(copies[name]),
                name in nodes and name not in refused,
                copies[name].age,
                busy[name],
                name,
            ),
        )
        chosen = set(best[: service.replicas])
        busy.subtract(best[service.replicas :])
        if missing := service.replicas - len(chosen):
            free = (name for name in nodes if name not in refused and name not in chosen)
            new = sorted(free, key=lambda name: (name not in before, busy[name], name))[:missing]
            busy.update(new)
            chosen.update(new)
        return ReplicaPlacement(
            service,
            tuple(sorted(chosen)),
            fixed={name: clause for name, clause in refused.items() if name in chosen},
            refused={name: clause for name, clause in refused.items() if name not in chosen},
        )


def _claim(copy: Copy) -> tuple[int, bool, bool]:
    """Return the claim of a copy to stay, the strongest first."""
    return -copy.rank, copy.state is not CopyState.CURRENT, copy.state < CopyState.RAN


def why_short(
    placement: ReplicaPlacement, nodes: Sequence[Node], filters: Sequence[Filter] = FILTERS
) -> Refusal | None:
    """Explain missing replicas, with the reason for every rejected node; None if no replica is missing."""
    if not placement.missing_replicas:
        return None
    service, count = placement.service, len(placement.nodes)
    wanted = f"{service.replicas} replica{'' if service.replicas == 1 else 's'}"
    may = f"{count or 'no'} attached node{'s' if count > 1 else ''} may run it"
    why = f" ({_listed(placement.refused)})" if placement.refused else ""
    others = [node for node in nodes if node.name not in placement.nodes]
    return Refusal(
        f'service "{service.name}" needs {wanted}, but {may}{why}', how_to_make_room(service, others, filters)
    )


def why_stuck(
    placement: ReplicaPlacement, nodes: Sequence[Node], filters: Sequence[Filter] = FILTERS
) -> Refusal | None:
    """Explain that no release can reach the service, as all its nodes take no new copies; None if a release can."""
    if not placement.nodes or placement.fixed.keys() != set(placement.nodes):
        return None
    stuck = [node for node in nodes if node.name in placement.fixed]
    return Refusal(
        f'service "{placement.service.name}" runs only on nodes that take no new copies ({_listed(placement.fixed)})',
        how_to_make_room(placement.service, stuck, filters),
    )


def _listed(clauses: Mapping[str, str]) -> str:
    reasons = [f"{name}: {clause}" for name, clause in sorted(clauses.items())]
    more = f"; and {len(reasons) - _NAMED} more" if len(reasons) > _NAMED else ""
    return "; ".join(reasons[:_NAMED]) + more
