"""Which services of a release each attached node is to run. Pure.

The rule itself is ``devopsellence.placement``, which the command line asks as well; here it is given what only the
controller knows: what runs where now, since when a node has been silent, and which nodes are being drained. A copy
that is to run elsewhere, or that is one too many, is taken away only when enough others run: so however often this is
asked anew on the way, there are never fewer of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.api.v1.workload_pb2 import Service
from devopsellence.controller.model.reachability import answers
from devopsellence.controller.model.snapshot import EnvironmentSnapshot, Moment, NodeView
from devopsellence.controller.rollout.node_progress import is_settled
from devopsellence.controller.scheduler.drain import remaining_services
from devopsellence.placement import (
    FILTERS,
    Filter,
    Layout,
    Refusal,
    Spread,
    UnreachableFilter,
    layout,
    why_leaves,
    why_nowhere,
    why_short,
    why_stuck,
)
from devopsellence.store.record import message_of

# For a release that says nothing about it, which the command line does not write.
DEFAULT_RESCHEDULE_SECONDS: Final = 60.0
# How good a copy is, for placement's Held. It ran when its node last reported, which was before the assignment changed;
# it runs; it runs as the release says. 0: it does not run, as far as is known.
_RAN: Final = 1
_RUNS: Final = 2
_CURRENT: Final = 3


@dataclass(frozen=True, slots=True)
class EnvironmentPlacement:
    """What :func:`place` answers.

    ``services`` are names by node: of a node that takes part, what it is to run of the release; of one that is being
    drained, what it may go on running of what it has. A node that is not here is left at what it has.
    """

    services: Mapping[str, frozenset[str]] = field(default_factory=dict)
    # When to look again if nothing changes, in seconds; None: never.
    recheck_after: float | None = None
    # Of each service that runs on fewer nodes than it should: a sentence that names the nodes and why not.
    shortages: Sequence[str] = ()
    # Why a node is given replicas that ran elsewhere, or goes on running what it is being drained of: clauses by node.
    why: Mapping[str, str] = field(default_factory=dict)


def place_services(
    world: EnvironmentSnapshot, attached: frozenset[str], release: pb.Release, now: Moment
) -> EnvironmentPlacement:
    """Where the services of ``release`` are to run, on the ``attached`` nodes of ``world``."""
    views = [view for view in world.nodes if view.name in attached and view.node is not None]
    counted = [service for service in release.services if service.replicas]
    grace = _reschedule_after(release)
    silent = {view.name: world.silent_since[view.name] for view in views if view.name in world.silent_since}
    filters = _filters(silent, grace, now)
    held = _held(views, counted, release.number)
    nodes = [view.node.message for view in views if view.node is not None and view.node.message is not None]
    found = layout(release.services, nodes, held, filters)
    services, why = dict(found.services), _newcomers(found, held, nodes, filters)
    for service, names in _Handover(views, found, held).kept().items():
        for name in names:
            services[name] |= {service}
    specs = {service.name: service for service in release.services}
    for view in views:
        node = message_of(view.node)
        if node is not None and node.HasField("drain"):
            left = remaining_services(view, node, specs, _waiting(node.name, services[node.name], found))
            services[node.name] = left.services
            if left.why:
                why[node.name] = left.why
    short = [_shortage(each, nodes, filters, held[name]) for name, each in found.spreads.items()]
    return EnvironmentPlacement(
        services, _until_gone(silent, held, counted, grace, now), [str(one) for one in short if one is not None], why
    )


def _reschedule_after(release: pb.Release) -> float:
    duration = release.rollout.reschedule_after
    return (duration.seconds + duration.nanos / 1e9) or DEFAULT_RESCHEDULE_SECONDS


def _filters(silent: Mapping[str, float], grace: float, now: Moment) -> tuple[Filter, ...]:
    gone = frozenset(name for name, since in silent.items() if now.monotonic - since >= grace)
    # Without the time that has passed: it ends up in the rollout's reason, which is written whenever it changes.
    clauses = {name: f"unreachable for more than {grace:g} s" if name in gone else "unreachable" for name in silent}
    return (*FILTERS, UnreachableFilter(clauses, gone))


def _until_gone(
    silent: Mapping[str, float],
    held: Mapping[str, Mapping[str, int]],
    counted: Collection[Service],
    grace: float,
    now: Moment,
) -> float | None:
    """How long until the next silent node is not waited for any longer; None: none has a replica that may move."""
    movable = {name for service in counted if not service.volumes for name in held[service.name]}
    left = [since + grace - now.monotonic for name, since in silent.items() if name in movable]
    return min((seconds for seconds in left if seconds > 0), default=None)


def _held(views: Sequence[NodeView], services: Sequence[Service], release: int) -> dict[str, dict[str, int]]:
    """Who has a copy of which of ``services``, as placement's Held."""
    found: dict[str, dict[str, int]] = {service.name: {} for service in services}
    if not found:
        return found
    for view in views:
        for name in _names(view) & found.keys():
            found[name][view.name] = _standing(view, name, release)
    return found


def _names(view: NodeView) -> set[str]:
    """The services that the node has: those assigned to it; where that is not known, those that it reports."""
    assignment = message_of(view.assignment)
    status = message_of(view.status)
    if assignment is not None:
        return set() if assignment.removed else {service.name for service in assignment.services}
    return {service.name for service in status.services} if status is not None else set()


def _standing(view: NodeView, service: str, release: int) -> int:
    """How good the node's copy is."""
    assignment = message_of(view.assignment)
    if assignment is None or view.status is None or not answers(view):
        return 0
    status = view.status.message
    if status is None:
        return _RAN
    if status.node_uid != assignment.node_uid or not any(
        one.name == service and is_settled(one) for one in status.services
    ):
        return 0
    if status.generation != assignment.generation:
        return _RAN
    return _CURRENT if assignment.release == release else _RUNS


def _newcomers(
    found: Layout, held: Mapping[str, Mapping[str, int]], nodes: Sequence[pb.Node], filters: Sequence[Filter]
) -> dict[str, str]:
    """Why nodes are given replicas that others are to lose, by node."""
    said: dict[str, list[str]] = {}
    for name, each in found.spreads.items():
        leaving = [
            f"{node.name} ({clause})"
            for node in nodes
            if node.name in held[name] and (clause := why_leaves(each.service, node, filters))
        ]
        for new in each.nodes if leaving else ():
            if new not in held[name]:
                said.setdefault(new, []).append(f"{name} moves here from {' or '.join(leaving)}")
    return {node: "; ".join(clauses) for node, clauses in said.items()}


def _shortage(
    found: Spread, nodes: Sequence[pb.Node], filters: Sequence[Filter], copies: Mapping[str, int]
) -> Refusal | None:
    """What is wrong with where a service runs; None: nothing, or it can run nowhere, which is told as an obstacle."""
    if not found.nodes and why_nowhere(found.service, nodes) is not None:
        return None
    if any(standing == _CURRENT for standing in copies.values()):
        return why_short(found, nodes, filters)
    return why_short(found, nodes, filters) or why_stuck(found, nodes, filters)


def _waiting(node: str, services: Collection[str], found: Layout) -> dict[str, Sequence[str]]:
    """The replicas that ``node`` keeps until they run elsewhere, with the nodes where they are to."""
    spreads = {name: found.spreads[name].nodes for name in services if name in found.spreads}
    return {name: nodes for name, nodes in spreads.items() if node not in nodes}


class _Handover:
    """Which copies stay for the time being, although they are to leave or are too many."""

    def __init__(self, views: Sequence[NodeView], found: Layout, held: Mapping[str, Mapping[str, int]]) -> None:
        self._views = {view.name: view for view in views}
        self._known = found.services.keys()
        self._spreads = found.spreads
        self._held = held

    def kept(self) -> dict[str, list[str]]:
        """Names of nodes by service."""
        return {name: self._kept(found, self._held[name]) for name, found in self._spreads.items()}

    def _kept(self, found: Spread, copies: Mapping[str, int]) -> list[str]:
        """One that runs for each copy that does not run yet where it is to run.

        A node that does not answer keeps its copy for as long as there is no place for another, so that nothing is lost
        when it comes back; one that answers was told to give it up.
        """
        running = sum(copies.get(name, 0) >= _RUNS for name in found.nodes)
        placed, wanted = len(found.nodes) - running, found.service.replicas - running
        kept, enough = [], 0
        for name in sorted(copies.keys() - set(found.nodes), key=lambda name: (-copies[name], name)):
            answering = answers(self._views[name])
            if name in self._known and enough < (placed if answering else wanted) and (copies[name] or not answering):
                kept.append(name)
                enough += copies[name] >= _RUNS
        return kept
