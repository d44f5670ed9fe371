"""Batches: the nodes that may update now, and ``max_parallel`` as their limit. Pure.

A node counts as in flight from the write of its new assignment until it has settled, as long as it is reachable. An
update that interrupts a running service waits until fewer nodes than the limit are in flight; an update that interrupts
nothing starts at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.model.snapshot import EnvironmentSnapshot, NodeView
from devopsellence.controller.rollout.node_progress import NodeProgress, PlannedNode
from devopsellence.controller.rollout.target import RolloutTarget
from devopsellence.store.record import message_of


@dataclass(frozen=True, slots=True)
class NodeUpdate:
    """A node as it is without an update, and the assignment of its update (None: there is nothing to update)."""

    unchanged: PlannedNode
    assignment: pb.Assignment | None = None


@dataclass(frozen=True, slots=True)
class BatchCandidate:
    """A node with a pending update."""

    name: str
    #: The update interrupts nothing: no service runs on the node, the node is midway, or it stays at its release.
    free: bool = False
    #: The agent is reachable, so the node is in flight once its update has begun.
    reachable: bool = True
    #: The release task has run on this node.
    ran_task: bool = False
    #: On its way to a release that is no longer wanted.
    midway: bool = False
    #: The Rollout says that the update of this node has begun already.
    recorded: bool = False


def choose_batch(candidates: Iterable[BatchCandidate], in_flight: int, limit: int | None) -> list[str]:
    """Return the names of the ``candidates`` that update now, in order.

    Args:
        in_flight: number of nodes whose update has begun and is not done.
        limit: largest number of nodes in flight; None: no limit.
    """
    ordered = sorted(
        candidates,
        key=lambda candidate: (not candidate.recorded, not candidate.ran_task, not candidate.midway, candidate.name),
    )
    if limit is None:
        return [candidate.name for candidate in ordered]
    room = limit - in_flight - sum(1 for candidate in ordered if candidate.free and candidate.reachable)
    chosen = []
    for candidate in ordered:
        if candidate.free:
            chosen.append(candidate.name)
        elif room > 0:
            room -= 1
            chosen.append(candidate.name)
    return chosen


def choose_updates(
    updates: Iterable[NodeUpdate],
    nodes: Iterable[NodeProgress],
    target: RolloutTarget,
    limit: int | None,
    recorded: Collection[str],
    task_node: str,
) -> frozenset[str]:
    """Return the names of the nodes that update now.

    ``nodes`` is the progress of the nodes without the ``updates``, in the same order; ``limit`` as for choose_batch();
    ``recorded`` as from recorded_as_moved().
    """
    candidates, in_flight = [], 0
    for update, node in zip(updates, nodes, strict=True):
        candidate = _candidate(update, node, target, recorded, task_node)
        if candidate is not None:
            candidates.append(candidate)
        elif is_in_flight(node, target.release):
            in_flight += 1
    return frozenset(choose_batch(candidates, in_flight, limit))


def is_in_flight(node: NodeProgress, release: int) -> bool:
    """Return whether ``node`` is reachable, is assigned ``release`` and has not settled."""
    return node.release == release and node.reachable and node.hold is None and not node.done


def recorded_as_moved(snapshot: EnvironmentSnapshot, target: RolloutTarget) -> frozenset[str]:
    """Return the names of the nodes that, according to the Rollout, are assigned the target release.

    If the assignment of such a node says otherwise, the write has not arrived yet, or the controller died before the
    write: its place in the batch must not go to another node.
    """
    rollout = message_of(snapshot.rollout)
    if rollout is None or (rollout.release, rollout.target) != (target.newest, target.release):
        return frozenset()
    return frozenset(node.node for node in rollout.nodes if node.release == target.release)


def batch_clause(target: RolloutTarget, max_parallel: str, limit: int | None) -> str:
    """Return the end of a sentence about a node that waits for its batch."""
    nodes = "1 node updates" if limit == 1 else f"{limit} nodes update"
    setting = f"max_parallel {max_parallel}" if max_parallel else "max_parallel"
    return f"{' to roll back' if target.rolls_back else ''}: {nodes} at a time ({setting})"


def _candidate(
    update: NodeUpdate, node: NodeProgress, target: RolloutTarget, recorded: Collection[str], task_node: str
) -> BatchCandidate | None:
    """Return the candidate for an update; None if there is nothing to update, or the node is unreachable."""
    view, assignment = update.unchanged.view, update.assignment
    if assignment is None:
        return None
    current = view.current_release
    stays = current == assignment.release
    midway = not stays and _is_midway(view, target)
    if node.phase == pb.NodeProgress.UNREACHABLE and not (stays or midway):
        return None
    return BatchCandidate(
        view.name,
        free=stays or midway or current == 0 or _is_empty(view),
        reachable=node.reachable,
        ran_task=view.name == task_node,
        midway=midway,
        recorded=view.name in recorded,
    )


def _is_midway(view: NodeView, target: RolloutTarget) -> bool:
    """Return whether the node has not settled at a release that no node is to run any more."""
    assignment = view.current_assignment
    wanted = (target.release, target.last_settled)
    return assignment is not None and assignment.release not in wanted and not view.has_settled(assignment)


def _is_empty(view: NodeView) -> bool:
    """Return whether the assignment says that nothing of the environment runs on the registered machine."""
    assignment = view.current_assignment
    node = message_of(view.node)
    return assignment is not None and (not assignment.services or node is None or assignment.node_uid != node.uid)
