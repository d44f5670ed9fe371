"""Where the copies of each service run: on every node that may run it, or, with replicas, on so many of them.

Replicas stay where they are as long as they may. What is missing goes to the nodes that run the fewest services, then
by name; what is too many leaves those that run the most. So a change moves nothing but what it is about.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from devopsellence.api.v1.stored_pb2 import Node
from devopsellence.api.v1.workload_pb2 import Service
from devopsellence.placement.filters import FILTERS, Filter, Refusal, how_to_make_room, why_leaves, why_not

# By service, and by node that has a copy of it: how good that copy is. Where there are too many, the best stay.
HeldCopies = Mapping[str, Mapping[str, int]]
_NAMED: Final = 5


@dataclass(frozen=True, slots=True)
class ReplicaPlacement:
    """Where the replicas of one service are to run, at most one on a node."""

    service: Service
    # By name, sorted. Also nodes that are not known, where a copy is.
    nodes: tuple[str, ...]
    # Those of them that keep the copy they have, but take nothing new: by name, with why.
    fixed: Mapping[str, str]
    # The other nodes that may not run it: by name, with why not.
    refused: Mapping[str, str]

    @property
    def missing_replicas(self) -> int:
        """How many replicas have no node."""
        return max(0, self.service.replicas - len(self.nodes))


@dataclass(frozen=True, slots=True)
class Placement:
    """Which services run on which node."""

    # Names of services by node: of every node that was given, sorted by name.
    services: Mapping[str, frozenset[str]] = field(default_factory=dict)
    # By name of the service: those with replicas.
    replica_placements: Mapping[str, ReplicaPlacement] = field(default_factory=dict)

    def nodes_of(self, service: str) -> tuple[str, ...]:
        """The nodes that run ``service``, in the order given."""
        return tuple(node for node, names in self.services.items() if service in names)


def compute_placement(
    services: Iterable[Service], nodes: Sequence[Node], held: HeldCopies, filters: Sequence[Filter] = FILTERS
) -> Placement:
    """Where ``services`` run on ``nodes``, the attached ones, given who has what now.

    A copy that is held by a node which is not among ``nodes`` counts, and stays where it is.
    """
    everywhere: list[Service] = []
    counted: list[Service] = []
    for service in services:
        (counted if service.replicas else everywhere).append(service)
    asked = _FilterCache(nodes, filters)
    shared: dict[Hashable, frozenset[str]] = {}
    result: dict[str, frozenset[str]] = {}
    for node in nodes:
        look = asked.looks[node.name]
        if look not in shared:
            shared[look] = frozenset(one.name for one in everywhere if not asked.why_not(one, node))
        result[node.name] = shared[look]
    if not counted:
        return Placement(result)
    spreads = _ReplicaScheduler(asked, {name: len(names) for name, names in result.items()}).spread(counted, held)
    for name, each in spreads.items():
        for node_name in each.nodes:
            if node_name in result:
                result[node_name] |= {name}
    return Placement(result, spreads)


class _FilterCache:
    """What the filters say, asked once for nodes that look the same to them."""

    def __init__(self, nodes: Sequence[Node], filters: Sequence[Filter]) -> None:
        self._filters = filters
        self.nodes = {node.name: node for node in nodes}
        self.looks: dict[str, Hashable] = {node.name: tuple(one.fingerprint(node) for one in filters) for node in nodes}
        self._refused: dict[tuple[str, Hashable], str] = {}
        self._leaves: dict[tuple[str, Hashable], str] = {}

    def why_not(self, service: Service, node: Node) -> str:
        key = service.name, self.looks[node.name]
        if key not in self._refused:
            self._refused[key] = why_not(service, node, self._filters)
        return self._refused[key]

    def why_leaves(self, service: Service, node: Node) -> str:
        key = service.name, self.looks[node.name]
        if key not in self._leaves:
            self._leaves[key] = why_leaves(service, node, self._filters)
        return self._leaves[key]


class _ReplicaScheduler:
    """One round over all services with replicas; ``load`` is how many other services each node runs."""

    def __init__(self, asked: _FilterCache, load: Mapping[str, int]) -> None:
        self._asked = asked
        self._busy = Counter(load)

    def spread(self, services: Iterable[Service], held: HeldCopies) -> dict[str, ReplicaPlacement]:
        ordered = sorted(services, key=lambda service: service.name)
        stays = {service.name: self._stays(service, held.get(service.name, {})) for service in ordered}
        for names in stays.values():
            self._busy.update(names)
        return {
            service.name: self._spread(service, stays[service.name], held.get(service.name, {})) for service in ordered
        }

    def _stays(self, service: Service, copies: Iterable[str]) -> list[str]:
        nodes = self._asked.nodes
        return [name for name in copies if name not in nodes or not self._asked.why_leaves(service, nodes[name])]

    def _spread(self, service: Service, stays: Sequence[str], copies: Mapping[str, int]) -> ReplicaPlacement:
        nodes, busy = self._asked.nodes, self._busy
        refused = {name: clause for name, node in nodes.items() if (clause := self._asked.why_not(service, node))}
        # Of two copies that are equally good the one stays that could not be taken away, or not brought back.
        best = sorted(stays, key=lambda name: (-copies[name], name in nodes and name not in refused, busy[name], name))
        chosen = set(best[: service.replicas])
        busy.subtract(best[service.replicas :])
        if missing := service.replicas - len(chosen):
            free = (name for name in nodes if name not in refused and name not in chosen)
            new = sorted(free, key=lambda name: (busy[name], name))[:missing]
            busy.update(new)
            chosen.update(new)
        return ReplicaPlacement(
            service,
            tuple(sorted(chosen)),
            fixed={name: clause for name, clause in refused.items() if name in chosen},
            refused={name: clause for name, clause in refused.items() if name not in chosen},
        )


def why_short(found: ReplicaPlacement, nodes: Sequence[Node], filters: Sequence[Filter] = FILTERS) -> Refusal | None:
    """Why not all replicas have one of ``nodes``, naming each that was refused; None: all have."""
    if not found.missing_replicas:
        return None
    service, count = found.service, len(found.nodes)
    wanted = f"{service.replicas} replica{'' if service.replicas == 1 else 's'}"
    may = f"{count or 'no'} attached node{'s' if count > 1 else ''} may run it"
    why = f" ({_listed(found.refused)})" if found.refused else ""
    others = [node for node in nodes if node.name not in found.nodes]
    return Refusal(
        f'service "{service.name}" is to have {wanted}, and {may}{why}', how_to_make_room(service, others, filters)
    )


def why_stuck(found: ReplicaPlacement, nodes: Sequence[Node], filters: Sequence[Filter] = FILTERS) -> Refusal | None:
    """Why no release reaches the service: it runs, but only where nothing new comes; None: one does."""
    if not found.nodes or found.fixed.keys() != set(found.nodes):
        return None
    stuck = [node for node in nodes if node.name in found.fixed]
    return Refusal(
        f'service "{found.service.name}" stays where nothing new comes ({_listed(found.fixed)})',
        how_to_make_room(found.service, stuck, filters),
    )


def held_copies(services: Mapping[str, Iterable[str]]) -> HeldCopies:
    """What nodes hold, given by node, where one copy is as good as another."""
    found: dict[str, dict[str, int]] = {}
    for node, names in services.items():
        for name in names:
            found.setdefault(name, {})[node] = 0
    return found


def _listed(clauses: Mapping[str, str]) -> str:
    said = [f"{name}: {clause}" for name, clause in sorted(clauses.items())]
    more = f"; and {len(said) - _NAMED} more" if len(said) > _NAMED else ""
    return "; ".join(said[:_NAMED]) + more
