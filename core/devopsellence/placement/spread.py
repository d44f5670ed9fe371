"""Where the copies of each service run: on every node that may run it, or, with replicas, on so many of them.

Replicas stay where they are as long as they may. What is missing goes to the nodes that run the fewest services, then
by name; what is too many leaves those that run the most. So a change moves nothing but what it is about.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from devopsellence.api.v1.stored_pb2 import Node
from devopsellence.api.v1.workload_pb2 import Service
from devopsellence.placement.filters import FILTERS, Filter, Refusal, how_to_make_room, why_leaves, why_not

# By service, and by node that has a copy of it: how good that copy is. Where there are too many, the best stay.
Held = Mapping[str, Mapping[str, int]]
_NAMED: Final = 5


@dataclass(frozen=True, slots=True)
class Spread:
    """Where the replicas of one service are to run, at most one on a node."""

    service: Service
    # By name, sorted. Also nodes that are not known, where a copy is.
    nodes: tuple[str, ...]
    # Those of them that keep the copy they have, but take nothing new: by name, with why.
    fixed: Mapping[str, str]
    # The other nodes that may not run it: by name, with why not.
    refused: Mapping[str, str]

    @property
    def lacking(self) -> int:
        """How many replicas have no node."""
        return max(0, self.service.replicas - len(self.nodes))


@dataclass(frozen=True, slots=True)
class Layout:
    """Which services run on which node."""

    # Names of services by node: of every node that was given, sorted by name.
    services: Mapping[str, frozenset[str]] = field(default_factory=dict)
    # By name of the service: those with replicas.
    spreads: Mapping[str, Spread] = field(default_factory=dict)

    def nodes_of(self, service: str) -> tuple[str, ...]:
        """The nodes that run ``service``, in the order given."""
        return tuple(node for node, names in self.services.items() if service in names)


def layout(
    services: Iterable[Service], nodes: Sequence[Node], held: Held, filters: Sequence[Filter] = FILTERS
) -> Layout:
    """Where ``services`` run on ``nodes``, the attached ones, given who has what now.

    A copy that is held by a node which is not among ``nodes`` counts, and stays where it is.
    """
    everywhere: list[Service] = []
    counted: list[Service] = []
    for service in services:
        (counted if service.replicas else everywhere).append(service)
    placed: dict[str, set[str]] = {}
    shared: dict[tuple[object, ...], frozenset[str]] = {}
    result: dict[str, frozenset[str]] = {}
    for node in nodes:
        # All of a node that matters to a service which runs on every node.
        profile = (*node.labels, node.cordoned, node.HasField("drain"))
        if profile not in shared:
            shared[profile] = frozenset(one.name for one in everywhere if not why_not(one, node, filters))
        result[node.name] = shared[profile]
    if not counted:
        return Layout(result)
    spreads = spread(counted, nodes, held, {name: len(names) for name, names in result.items()}, filters)
    for name, each in spreads.items():
        for node_name in each.nodes:
            placed.setdefault(node_name, set()).add(name)
    for node_name, names in placed.items():
        if node_name in result:
            result[node_name] |= names
    return Layout(result, spreads)


def spread(
    services: Iterable[Service],
    nodes: Sequence[Node],
    held: Held,
    load: Mapping[str, int],
    filters: Sequence[Filter] = FILTERS,
) -> dict[str, Spread]:
    """Where the replicas of ``services`` run; ``load`` is how many other services each node runs."""
    ordered = sorted(services, key=lambda service: service.name)
    known = {node.name: node for node in nodes}
    busy = Counter(load)
    stays: dict[str, list[str]] = {}
    for service in ordered:
        copies = held.get(service.name, {})
        stays[service.name] = [
            name for name in sorted(copies) if name not in known or not why_leaves(service, known[name], filters)
        ]
        busy.update(stays[service.name])
    return {
        service.name: _spread(service, known, stays[service.name], held.get(service.name, {}), busy, filters)
        for service in ordered
    }


def _spread(
    service: Service,
    known: Mapping[str, Node],
    stays: Sequence[str],
    copies: Mapping[str, int],
    busy: Counter[str],
    filters: Sequence[Filter],
) -> Spread:
    """One service's spread; ``busy`` is kept up to date."""
    refused = {name: clause for name, node in known.items() if (clause := why_not(service, node, filters))}
    # Of two copies that are equally good the one stays that could not be taken away, or not brought back.
    best = sorted(stays, key=lambda name: (-copies[name], name in known and name not in refused, busy[name], name))
    chosen = best[: service.replicas]
    busy.subtract(best[service.replicas :])
    free = [name for name in known if name not in refused and name not in chosen]
    free.sort(key=lambda name: (busy[name], name))
    new = free[: service.replicas - len(chosen)]
    busy.update(new)
    there = tuple(sorted([*chosen, *new]))
    return Spread(
        service,
        there,
        fixed={name: refused[name] for name in there if name in refused},
        refused={name: clause for name, clause in refused.items() if name not in there},
    )


def why_short(found: Spread, nodes: Sequence[Node], filters: Sequence[Filter] = FILTERS) -> Refusal | None:
    """Why not all replicas have one of ``nodes``, naming each that was refused; None: all have."""
    if not found.lacking:
        return None
    service, count = found.service, len(found.nodes)
    wanted = f"{service.replicas} replica{'' if service.replicas == 1 else 's'}"
    may = f"{count or 'no'} attached node{'s' if count > 1 else ''} may run it"
    why = f" ({_listed(found.refused)})" if found.refused else ""
    others = [node for node in nodes if node.name not in found.nodes]
    return Refusal(
        f'service "{service.name}" is to have {wanted}, and {may}{why}', how_to_make_room(service, others, filters)
    )


def why_stuck(found: Spread, nodes: Sequence[Node], filters: Sequence[Filter] = FILTERS) -> Refusal | None:
    """Why no release reaches the service: it runs, but only where nothing new comes; None: one does."""
    if not found.nodes or found.fixed.keys() != set(found.nodes):
        return None
    stuck = [node for node in nodes if node.name in found.fixed]
    return Refusal(
        f'service "{found.service.name}" stays where nothing new comes ({_listed(found.fixed)})',
        how_to_make_room(found.service, stuck, filters),
    )


def held_by(services: Mapping[str, Iterable[str]]) -> Held:
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
