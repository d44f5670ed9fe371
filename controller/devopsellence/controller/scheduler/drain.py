"""Draining of a node: the services that stay on it for now, and why. Pure.

Web services end first, so that no request is on its way to the node when other services end. A service with a volume
stays, unless the drain moves volumes; a replica stays until it has settled on another node.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.api.v1.workload_pb2 import Service
from devopsellence.controller.model.snapshot import NodeView
from devopsellence.placement import why_leaves
from devopsellence.store.record import message_of


@dataclass(frozen=True, slots=True)
class RemainingServices:
    """Services that stay on a node for now, with clauses that say why; "" if none stays."""

    services: frozenset[str]
    why: str


def remaining_services(
    view: NodeView, node: pb.Node, specs: Mapping[str, Service], waiting: Mapping[str, Sequence[str]]
) -> RemainingServices:
    """Return the services that ``node`` keeps for now.

    ``specs`` are the services of the release by name, ``waiting`` the replicas that stay until they have settled
    elsewhere, with the names of the nodes they move to.
    """
    current = message_of(view.assignment)
    had = (
        {service.name: specs.get(service.name, service) for service in current.services} if current is not None else {}
    )
    staying = {name for name, service in had.items() if not why_leaves(service, node)}
    leaving = had.keys() - staying
    webs = {name for name in leaving if had[name].kind == Service.WEB}
    now = webs or (leaving if _is_quiet(view) else set())
    left = frozenset(had.keys() - {name for name in now if name not in waiting})
    reasons = [
        f'service "{name}" stays, as its data is here; devopsellence node drain {node.name} --move-volumes moves it'
        for name in sorted(staying)
        if had[name].volumes
    ]
    reasons += [
        f'service "{name}" stays until it has settled on {", ".join(waiting[name]) or "another node"}'
        for name in sorted(leaving & left & waiting.keys())
    ]
    if others := sorted((leaving & left) - waiting.keys()):
        reasons.append(f"{', '.join(others)} runs until {_before(webs or _ending(view))}")
    return RemainingServices(left, "; ".join(reasons))


def _is_quiet(view: NodeView) -> bool:
    """Return whether the node has reported the end of all services that are not assigned any more."""
    assignment = message_of(view.assignment)
    status = message_of(view.status)
    if assignment is None or status is None or _ending(view):
        return False
    return (status.node_uid, status.generation) == (assignment.node_uid, assignment.generation)


def _ending(view: NodeView) -> set[str]:
    """Return the services that the node reports although they are not assigned any more."""
    assignment = message_of(view.assignment)
    status = message_of(view.status)
    if assignment is None or status is None:
        return set()
    return {service.name for service in status.services} - {service.name for service in assignment.services}


def _before(names: Collection[str]) -> str:
    return f"{', '.join(sorted(names))} has ended there" if names else "its agent has reported"
