"""Coverage of a release: every service has a node to run on, and has settled on at least one node. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.model.snapshot import is_partial
from devopsellence.controller.rollout.node_progress import Hold, NodeProgress, PlannedNode
from devopsellence.placement import why_nowhere


def why_unplaced(release: pb.Release, placed: Collection[str], planned_nodes: Sequence[PlannedNode]) -> str:
    """Return why a service of ``release`` runs nowhere; ``placed`` are the services with a node.

    The result is empty if every service has a node, or if a Node record cannot be read.
    """
    missing = [service for service in release.services if service.name not in placed]
    records = [planned.view.node for planned in planned_nodes] if missing else []
    if not missing or any(record is not None and record.error is not None for record in records):
        return ""
    nodes = [record.message for record in records if record is not None and record.message is not None]
    if not nodes and records:
        names = ", ".join(planned.view.name for planned in planned_nodes)
        return f'no attached node is registered ({names}), so service "{missing[0].name}" runs nowhere'
    missing.sort(key=lambda service: service.name)
    return next((str(refusal) for service in missing if (refusal := why_nowhere(service, nodes))), "")


def is_covered(release: pb.Release, planned_nodes: Iterable[PlannedNode], nodes: Iterable[NodeProgress]) -> bool:
    """Return whether each service of ``release`` has settled on at least one node."""
    missing = {service.name for service in release.services}
    for planned, progress in zip(planned_nodes, nodes, strict=True):
        if not missing:
            break
        assignment = planned.assignment
        if assignment is None or not is_whole(assignment, release.number):
            continue
        # An excluded node, such as a node being drained, still runs the services that it keeps.
        keeps = progress.hold is Hold.EXCLUDED and progress.reachable and planned.view.has_settled(assignment)
        if progress.done or keeps:
            missing.difference_update(service.name for service in assignment.services)
    return not missing


def is_whole(assignment: pb.Assignment, release: int) -> bool:
    """Return whether ``assignment`` is all of ``release`` for its node, and not only the needs of the task."""
    return assignment.release == release and not is_partial(assignment)
