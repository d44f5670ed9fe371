"""Whether every service of a release has a node to run on, and runs there. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.rollout.node_progress import Hold, Judgement, Standing
from devopsellence.controller.rollout.target import has_reported_settled, is_partial
from devopsellence.placement import why_nowhere


def why_unplaced(release: pb.Release, placed: Collection[str], standings: Sequence[Standing]) -> str:
    """Why a service of the release runs nowhere, where ``placed`` are those that run somewhere.

    Empty if each runs somewhere, or if that cannot be known.
    """
    missing = [service for service in release.services if service.name not in placed]
    records = [standing.view.node for standing in standings] if missing else []
    if not missing or any(record is not None and record.error is not None for record in records):
        return ""
    nodes = [record.message for record in records if record is not None and record.message is not None]
    if not nodes and records:
        names = ", ".join(standing.view.name for standing in standings)
        return f'no attached node is registered ({names}), so service "{missing[0].name}" runs nowhere'
    missing.sort(key=lambda service: service.name)
    return next((str(refusal) for service in missing if (refusal := why_nowhere(service, nodes))), "")


def is_covered(release: pb.Release, standings: Iterable[Standing], judgements: Iterable[Judgement]) -> bool:
    """Whether each service of the release has settled on at least one node."""
    missing = {service.name for service in release.services}
    for standing, judgement in zip(standings, judgements, strict=True):
        if not missing:
            break
        assignment = standing.assignment
        if assignment is None or not is_whole(assignment, release.number):
            continue
        # A node that takes no part any more, such as one that is drained, still runs what it keeps.
        keeps = judgement.hold is Hold.OUT and judgement.answers and has_reported_settled(standing.view, assignment)
        if judgement.done or keeps:
            missing.difference_update(service.name for service in assignment.services)
    return not missing


def is_whole(assignment: pb.Assignment, release: int) -> bool:
    """Whether it gives the node all that it is to run of ``release``, and not only what the task needs."""
    return assignment.release == release and not is_partial(assignment)
