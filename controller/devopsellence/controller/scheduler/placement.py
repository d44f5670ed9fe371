"""Placement over time: the services of a release that each attached node is to run. Pure.

The rules are in ``devopsellence.placement``, shared with the command line. This module adds facts known only to the
controller: the unreachable nodes and since when, and the nodes being drained. A replica that moves, or that is one too
many, is removed only when enough other replicas run, so the number of running replicas never falls below the wanted
number on the way; until then it stays as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.api.v1.workload_pb2 import Service
from devopsellence.clock import Now
from devopsellence.controller.model.snapshot import EnvironmentSnapshot, NodeView
from devopsellence.controller.scheduler.drain import remaining_services
from devopsellence.placement import (
    FILTERS,
    Copy,
    CopyState,
    Filter,
    HeldCopies,
    NodeRecords,
    Placement,
    Refusal,
    ReplicaPlacement,
    UnreachableFilter,
    compute_placement,
    ranked_copies,
    record_choice,
    task_nodes,
    unreachable_dependencies,
    why_leaves,
    why_nowhere,
    why_short,
    why_stuck,
)
from devopsellence.store.record import message_of

# For a release without the setting; the command line always writes it.
DEFAULT_RESCHEDULE_SECONDS: Final = 60.0


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
    #: Names of the replicas that stay on a node for the time being, by node. They are left as they are.
    leaving: Mapping[str, frozenset[str]] = field(default_factory=dict)
    #: Choice of nodes for the services with replicas, to be recorded before it is carried out; sorted by service.
    choices: Sequence[pb.ReplicaNodes] = ()
    #: Services of each node at the end, and the copies now.
    final: Placement = field(default_factory=Placement)
    held: HeldCopies = field(default_factory=HeldCopies)


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
    rollout = message_of(snapshot.rollout)
    recorded = rollout.replicas if rollout is not None else ()
    held = ranked_copies(counted, map(_records, views), recorded, release.number)
    nodes = [view.node.message for view in views if view.node is not None and view.node.message is not None]
    placement = compute_placement(release.services, nodes, held, filters)
    services, why = dict(placement.services), _newcomers(placement, held, nodes, filters)
    leaving: dict[str, frozenset[str]] = {}
    for service, names in _Handover(views, placement, held).kept().items():
        for name in names:
            services[name] |= {service}
            leaving[name] = leaving.get(name, frozenset()) | {service}
    specs = {service.name: service for service in release.services}
    for view in views:
        node = message_of(view.node)
        if node is not None and node.HasField("drain"):
            left = remaining_services(view, node, specs, _waiting(node.name, services[node.name], placement))
            services[node.name] = left.services
            if left.why:
                why[node.name] = left.why
    spreads = placement.replica_placements
    short = [_placement_problem(spread, nodes, filters, held.of(name)) for name, spread in spreads.items()]
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
        leaving,
        [record_choice(name, spreads[name].nodes, held, recorded) for name in sorted(spreads)],
        placement,
        held,
    )


def task_order(
    placement: EnvironmentPlacement, release: pb.Release, service: Service, views: Sequence[NodeView]
) -> list[str]:
    """Return the names of ``views``, which may run the release task in ``service``, the best first."""
    nodes = [node for view in views if (node := message_of(view.node)) is not None]
    unreachable = {view.name for view in views if not view.is_reachable}
    return task_nodes(service, release.services, nodes, placement.final, placement.held, unreachable)


def _records(view: NodeView) -> NodeRecords:
    node, status = message_of(view.node), message_of(view.status)
    return NodeRecords(
        view.name,
        node.uid if node is not None else "",
        message_of(view.assignment),
        status,
        view.is_reachable,
        view.assignment.create_revision if view.assignment is not None else 0,
        status_unreadable=view.status is not None and status is None,
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
    held: HeldCopies,
    counted: Collection[Service],
    grace: float,
    now: Now,
) -> float | None:
    """Return the seconds until replicas of the next unreachable node move; None if no replica would move."""
    movable = {name for service in counted if not service.volumes for name in held.of(service.name)}
    left = [since + grace - now.mono for name, since in unreachable.items() if name in movable]
    return min((seconds for seconds in left if seconds > 0), default=None)


def _newcomers(
    placement: Placement, held: HeldCopies, nodes: Sequence[pb.Node], filters: Sequence[Filter]
) -> dict[str, str]:
    """Return why replicas move to nodes, by node."""
    clauses_of: dict[str, list[str]] = {}
    for name, spread in placement.replica_placements.items():
        leaving = [
            f"{node.name} ({clause})"
            for node in nodes
            if node.name in held.of(name) and (clause := why_leaves(spread.service, node, filters))
        ]
        for new in spread.nodes if leaving else ():
            if new not in held.of(name):
                clauses_of.setdefault(new, []).append(f"{name} moves here from {' or '.join(leaving)}")
    return {node: "; ".join(clauses) for node, clauses in clauses_of.items()}


def _placement_problem(
    spread: ReplicaPlacement, nodes: Sequence[pb.Node], filters: Sequence[Filter], copies: Mapping[str, Copy]
) -> Refusal | None:
    """Return why a service runs on too few nodes; None if not, or if no node can run it (reported as unplaced)."""
    if not spread.nodes and why_nowhere(spread.service, nodes) is not None:
        return None
    if any(copy.state is CopyState.CURRENT for copy in copies.values()):
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

    def __init__(self, views: Sequence[NodeView], placement: Placement, held: HeldCopies) -> None:
        self._views = {view.name: view for view in views}
        self._known = placement.services.keys()
        self._spreads = placement.replica_placements
        self._held = held

    def kept(self) -> dict[str, list[str]]:
        """Return the names of the nodes with such replicas, by service."""
        return {name: self._kept(spread, self._held.of(name)) for name, spread in self._spreads.items()}

    def _kept(self, spread: ReplicaPlacement, copies: Mapping[str, Copy]) -> list[str]:
        """Return the nodes that keep a running replica for each replica that does not run yet at its new node.

        An unreachable node keeps its replica while there is no other node for it, so that nothing is lost when the node
        returns; a reachable node has already been assigned to remove it.
        """
        state = {name: copy.state for name, copy in copies.items()}
        running = sum(state.get(name, CopyState.UNKNOWN) >= CopyState.RUNS for name in spread.nodes)
        placed, wanted = len(spread.nodes) - running, spread.service.replicas - running
        kept, enough = [], 0
        for name in sorted(copies.keys() - set(spread.nodes), key=lambda name: (-state[name], name)):
            reachable = self._views[name].is_reachable
            if name in self._known and enough < (placed if reachable else wanted) and (state[name] or not reachable):
                kept.append(name)
                enough += state[name] >= CopyState.RUNS
        return kept
