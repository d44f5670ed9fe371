"""Rules about what nodes serve. Pure."""

from __future__ import annotations

from collections.abc import Collection

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.api.v1 import workload_pb2
from devopsellence.controller.model.snapshot import NodeView
from devopsellence.store.record import message_of


def reaches(ingress: workload_pb2.Ingress, services: Collection[str]) -> bool:
    """Return whether ``services`` include all targets of the rules; False without rules."""
    targets = {rule.service for rule in ingress.rules}
    return bool(targets) and targets.issubset(services)


def knows_assignment(view: NodeView, planned: pb.Assignment | None) -> bool:
    """Return whether a node knows its assignment, ``planned`` and unchanged, so that what it lacks can be taken away.

    An agent that is unreachable cannot be asked.
    """
    stored, reported = view.assignment, message_of(view.status)
    if stored is None:
        return planned is None
    if stored.message is None or stored.message is not planned:
        return False
    knows = reported is not None and (reported.node_uid, reported.generation) == (
        stored.message.node_uid,
        stored.message.generation,
    )
    return knows or view.heartbeat is None
