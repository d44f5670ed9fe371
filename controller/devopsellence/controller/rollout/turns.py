"""Whose turn it is: which of the nodes that are to run something else can move, and what it costs. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.model.snapshot import EnvironmentSnapshot, NodeView
from devopsellence.controller.rollout.batch import BatchCandidate, choose_batch
from devopsellence.controller.rollout.node_progress import NodeProgress, PlannedNode
from devopsellence.controller.rollout.target import RolloutTarget, assigned, has_reported_settled, release_at
from devopsellence.store.record import message_of


@dataclass(frozen=True, slots=True)
class NodeUpdate:
    """How a node stands if it is left at what it has, and what it is to have instead (None: nothing else)."""

    stays: PlannedNode
    wanted: pb.Assignment | None = None


def choose_updates(
    options: Iterable[NodeUpdate],
    judgements: Iterable[NodeProgress],
    course: RolloutTarget,
    limit: int | None,
    promised: Collection[str],
    task_node: str,
) -> frozenset[str]:
    """The nodes that move now; ``judgements`` are of ``options`` as they stay, ``limit`` as in choose()."""
    candidates, in_flight = [], 0
    for option, judgement in zip(options, judgements, strict=True):
        candidate = _candidate(option, judgement, course, recorded_as_moved, task_node)
        if candidate is not None:
            candidates.append(candidate)
        elif is_in_flight(judgement, course.target):
            in_flight += 1
    return frozenset(choose_batch(candidates, in_flight, limit))


def is_in_flight(judgement: NodeProgress, target: int) -> bool:
    """Whether the node has moved to ``target``, answers, and is not done."""
    return judgement.release == target and judgement.answers and judgement.hold is None and not judgement.done


def recorded_as_moved(world: EnvironmentSnapshot, course: RolloutTarget) -> frozenset[str]:
    """The nodes that the Rollout says have been moved to the target.

    Where the assignment does not say so, it was written so late that it is not seen yet, or the controller died before
    it was: nobody else may be given their place among those in flight.
    """
    rollout = message_of(world.rollout)
    if rollout is None or (rollout.release, rollout.target) != (course.release, course.target):
        return frozenset()
    return frozenset(one.node for one in rollout.nodes if one.release == course.target)


def batch_clause(course: RolloutTarget, max_parallel: str, limit: int | None) -> str:
    """The end of a sentence about a node that waits its turn."""
    nodes = "1 node moves" if limit == 1 else f"{limit} nodes move"
    written = f"max_parallel {max_parallel}" if max_parallel else "max_parallel"
    return f"{' to go back' if course.going_back else ''}: {nodes} at a time ({written})"


def _candidate(
    option: NodeUpdate, judgement: NodeProgress, course: RolloutTarget, promised: Collection[str], task_node: str
) -> BatchCandidate | None:
    """The node as one of those that could move; None: it has nowhere to move, or is not there to be moved."""
    view, wanted = option.stays.view, option.wanted
    if wanted is None:
        return None
    at = release_at(view)
    stays = at == wanted.release
    midway = not stays and _is_midway(view, course)
    if judgement.phase == pb.NodeProgress.UNREACHABLE and not (stays or midway):
        return None
    return BatchCandidate(
        view.name,
        free=stays or midway or at == 0 or _is_empty(view),
        answers=judgement.answers,
        first=view.name == task_node,
        midway=midway,
        promised=view.name in recorded_as_moved,
    )


def _is_midway(view: NodeView, course: RolloutTarget) -> bool:
    """Whether it is on the way to a release that nobody is to run any more, and has not arrived."""
    found = assigned(view)
    wanted = (course.target, course.last_settled)
    return found is not None and found.release not in wanted and not has_reported_settled(view, found)


def _is_empty(view: NodeView) -> bool:
    """Whether nothing of the environment runs on the machine that is registered, as far as its assignment says."""
    found = assigned(view)
    node = message_of(view.node)
    return found is not None and (not found.services or node is None or found.node_uid != node.uid)
