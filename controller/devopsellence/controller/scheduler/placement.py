"""Placement over time: the services of a release that each attached node is to run. Pure.

The rules are in ``devopsellence.placement``, shared with the command line. This module adds facts known only to the
controller: the replicas that run now, the unreachable nodes and since when, and the nodes being drained. A replica that
moves, or that is one too many, is removed only when enough other replicas run, so the number of running replicas never
falls below the wanted number on the way.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.api.v1.workload_pb2 import Service
from devopsellence.clock import Now
from devopsellence.controller.model.snapshot import EnvironmentSnapshot, NodeView
from devopsellence.controller.rollout.node_progress import is_settled
from devopsellence.controller.scheduler.drain import remaining_services
from devopsellence.placement import (
    FILTERS,
    Filter,
    Placement,
    Refusal,
    ReplicaPlacement,
    UnreachableFilter,
    compute_placement,
    unreachable_dependencies,
    why_leaves,
    why_nowhere,
    why_short,
    why_stuck,
)
from devopsellence.store.record import message_of

# For a release without the setting; the command line always writes it.
DEFAULT_RESCHEDULE_SECONDS: Final = 60.0
# Quality of a replica, for placement's Held: it ran at the last report of its node, before the assignment changed; it
# runs; it runs as in the release. 0: not running, as far as is known.
_RAN: Final = 1
_RUNS: Final = 2
_CURRENT: Final = 3


@dataclass(frozen=True, slots=True)
class EnvironmentPlacement:
    """Placement of the services of one release.

    ``services`` are the names of the services by node: for a node being drained the services that it keeps for now, for
    any other node the services that it is to run. Absent nodes keep their assignment.
    """

    services: Mapping[str, frozenset[str]] = field(default_factory=dict)
    #: Seconds until the next look if nothing changes; None: only after a change.
    recheck_after: float | None = None
    #: A sentence for each service that runs on fewer nodes than it should, with the nodes and the reasons, and for each
    #: dependency that a service does not reach from its nodes.
    problems: Sequence[str] = ()
    #: Clauses by node: why replicas move to a node, or why services stay on a node being drained.
    why: Mapping[str, str] = field(default_factory=dict)


def place_services(
    snapshot: EnvironmentSnapshot, attached: frozenset[str], release: pb.Release, now: Now
) -> EnvironmentPlacement:
    """Return the placement of the services of ``release`` on the ``attached`` nodes of ``snapshot``."""
    views = [view for view in snapshot.nodes if view.name in attached and view.node is not None]
    counted = [service for service in release.services if service.replicas]
    grace = _reschedule_after(release)
    unreachable = {
        view.name: snapshot.unreachable_since[view.name] for view in views if view.name in snapshot.unreachable_since
    }
    filters = _filters(unreachable, grace, now)
    held = _held(views, counted, release.number)
    nodes = [view.node.message for view in views if view.node is not None and view.node.message is not None]
    placement = compute_placement(release.services, nodes, held, filters)
    services, why = dict(placement.services), _newcomers(placement, held, nodes, filters)
    for service, names in _Handover(views, placement, held).kept().items():
        for name in names:
            services[name] |= {service}
    specs = {service.name: service for service in release.services}
    for view in views:
        node = message_of(view.node)
        if node is not None and node.HasField("drain"):
            left = remaining_services(view, node, specs, _waiting(node.name, services[node.name], placement))
            services[node.name] = left.services
            if left.why:
                why[node.name] = left.why
    short = [
        _placement_problem(spread, nodes, filters, held[name]) for name, spread in placement.replica_placements.items()
    ]
    return EnvironmentPlacement(
        services,
        _until_moved(unreachable, held, counted, grace, now),
        [
            *(str(refusal) for refusal in short if refusal is not None),
            *(
                str(problem)
                for problem in unreachable_dependencies(release.services, placement)
                if not problem.awaits_completion
            ),
        ],
        why,
    )


def _reschedule_after(release: pb.Release) -> float:
    duration = release.rollout.reschedule_after
    return (duration.seconds + duration.nanos / 1e9) or DEFAULT_RESCHEDULE_SECONDS


def _filters(unreachable: Mapping[str, float], grace: float, now: Now) -> tuple[Filter, ...]:
    gone = frozenset(name for name, since in unreachable.items() if now.mono - since >= grace)
    # Without the elapsed time: the clause becomes part of the reason of the rollout, and each change is written.
    clauses = {
        name: f"unreachable for more than {grace:g} s" if name in gone else "unreachable" for name in unreachable
    }
    return (*FILTERS, UnreachableFilter(clauses, gone))


def _until_moved(
    unreachable: Mapping[str, float],
    held: Mapping[str, Mapping[str, int]],
    counted: Collection[Service],
    grace: float,
    now: Now,
) -> float | None:
    """Return the seconds until replicas of the next unreachable node move; None if no replica would move."""
    movable = {name for service in counted if not service.volumes for name in held[service.name]}
    left = [since + grace - now.mono for name, since in unreachable.items() if name in movable]
    return min((seconds for seconds in left if seconds > 0), default=None)


def _held(views: Sequence[NodeView], services: Sequence[Service], release: int) -> dict[str, dict[str, int]]:
    """Return the quality of the replicas of ``services`` by service and node, as placement's Held."""
    held: dict[str, dict[str, int]] = {service.name: {} for service in services}
    if not held:
        return held
    for view in views:
        for name in _services_on(view) & held.keys():
            held[name][view.name] = _quality(view, name, release)
    return held


def _services_on(view: NodeView) -> set[str]:
    """Return the services assigned to the node; without a readable assignment, the services that it reports."""
    assignment = message_of(view.assignment)
    status = message_of(view.status)
    if assignment is not None:
        return set() if assignment.removed else {service.name for service in assignment.services}
    return {service.name for service in status.services} if status is not None else set()


def _quality(view: NodeView, service: str, release: int) -> int:
    """Return the quality of the replica of ``service`` on the node."""
    assignment = message_of(view.assignment)
    if assignment is None or view.status is None or not view.is_reachable:
        return 0
    status = view.status.message
    if status is None:
        return _RAN
    if status.node_uid != assignment.node_uid or not any(
        reported.name == service and is_settled(reported) for reported in status.services
    ):
        return 0
    if status.generation != assignment.generation:
        return _RAN
    return _CURRENT if assignment.release == release else _RUNS


def _newcomers(
    placement: Placement, held: Mapping[str, Mapping[str, int]], nodes: Sequence[pb.Node], filters: Sequence[Filter]
) -> dict[str, str]:
    """Return why replicas move to nodes, by node."""
    clauses_of: dict[str, list[str]] = {}
    for name, spread in placement.replica_placements.items():
        leaving = [
            f"{node.name} ({clause})"
            for node in nodes
            if node.name in held[name] and (clause := why_leaves(spread.service, node, filters))
        ]
        for new in spread.nodes if leaving else ():
            if new not in held[name]:
                clauses_of.setdefault(new, []).append(f"{name} moves here from {' or '.join(leaving)}")
    return {node: "; ".join(clauses) for node, clauses in clauses_of.items()}


def _placement_problem(
    spread: ReplicaPlacement, nodes: Sequence[pb.Node], filters: Sequence[Filter], copies: Mapping[str, int]
) -> Refusal | None:
    """Return why a service runs on too few nodes; None if not, or if no node can run it (reported as unplaced)."""
    if not spread.nodes and why_nowhere(spread.service, nodes) is not None:
        return None
    if any(quality == _CURRENT for quality in copies.values()):
        return why_short(spread, nodes, filters)
    return why_short(spread, nodes, filters) or why_stuck(spread, nodes, filters)


def _waiting(node: str, services: Collection[str], placement: Placement) -> dict[str, Sequence[str]]:
    """Return the replicas that ``node`` keeps until they run elsewhere, with the names of the nodes they move to."""
    spreads = {
        name: placement.replica_placements[name].nodes for name in services if name in placement.replica_placements
    }
    return {name: nodes for name, nodes in spreads.items() if node not in nodes}


class _Handover:
    """Replicas that stay for the time being, although they move or are too many."""

    def __init__(self, views: Sequence[NodeView], placement: Placement, held: Mapping[str, Mapping[str, int]]) -> None:
        self._views = {view.name: view for view in views}
        self._known = placement.services.keys()
        self._spreads = placement.replica_placements
        self._held = held

    def kept(self) -> dict[str, list[str]]:
        """Return the names of the nodes with such replicas, by service."""
        return {name: self._kept(spread, self._held[name]) for name, spread in self._spreads.items()}

    def _kept(self, spread: ReplicaPlacement, copies: Mapping[str, int]) -> list[str]:
        """Return the nodes that keep a running replica for each replica that does not run yet at its new node.

        An unreachable node keeps its replica while there is no other node for it, so that nothing is lost when the node
        returns; a reachable node has already been assigned to remove it.
        """
        running = sum(copies.get(name, 0) >= _RUNS for name in spread.nodes)
        placed, wanted = len(spread.nodes) - running, spread.service.replicas - running
        kept, enough = [], 0
        for name in sorted(copies.keys() - set(spread.nodes), key=lambda name: (-copies[name], name)):
            reachable = self._views[name].is_reachable
            if name in self._known and enough < (placed if reachable else wanted) and (copies[name] or not reachable):
                kept.append(name)
                enough += copies[name] >= _RUNS
        return kept
