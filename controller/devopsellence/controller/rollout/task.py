"""The release task of the newest release: on which node it runs, and how it fares. Pure.

It is started at most once for each release. So its node is decided once and recorded in the Rollout before the node is
told; what the record lost is read back from the assignments and the statuses; and where it cannot be known whether the
task has run, it has failed. An ended task stays as it ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.api.v1 import workload_pb2
from devopsellence.controller.model.actions import Precondition
from devopsellence.controller.model.snapshot import EnvironmentSnapshot, NodeView
from devopsellence.controller.rollout.target import is_partial
from devopsellence.placement import places, unplaced, why_nowhere
from devopsellence.store.keys import Keys
from devopsellence.store.record import message_of, revision_of

# How many assignments a choice is compared with; leaves room for the rest in a transaction.
_MAX_ASSIGNMENTS_COMPARED: Final = 60
_LINES_SHOWN: Final = 3
_Phase = pb.TaskStatus
_ENDED: Final = (_Phase.SUCCEEDED, _Phase.FAILED)


@dataclass(frozen=True, slots=True)
class TaskDecision:
    """The task as it should be recorded (None: the release has none), and what that rests on."""

    task: pb.TaskStatus | None = None
    rests_on: Sequence[Precondition] = ()


def decide_task(world: EnvironmentSnapshot, attached: frozenset[str], release: pb.Release, keys: Keys) -> TaskDecision:
    """Where the task of ``release`` runs and how it fares there.

    A node of "" is none yet: the reason says why, and it is looked for again whenever something changes.
    """
    if not release.HasField("release_task"):
        return TaskDecision()
    recorded = _recorded(world, release)
    task = recorded if recorded is not None else _recovered(world, release)
    if task.phase in _ENDED:
        return TaskDecision(task)
    service = next((one for one in release.services if one.name == task.service), None)
    if service is None:
        return TaskDecision(_failed(task, f'release {release.number} has no service "{task.service}" for it to run in'))
    view = next((one for one in world.nodes if one.name == task.node), NodeView(task.node))
    if task.node:
        task = _followed(task, view)
    if task.phase in _ENDED:
        return TaskDecision(task)
    told = bool(task.node) and _was_told(task, view)
    if told:
        why = _why_lost(task, view, attached)
        return TaskDecision(_failed(task, why), _basis_of(view, world, keys)) if why else TaskDecision(task)
    if task.node and _qualifies(view, service, attached):
        return TaskDecision(task)
    chosen = _chosen(world, attached, release, service)
    if recorded is None:
        return TaskDecision(chosen, () if _knows_of_another(world, release) else _basis_of_assignments(world, keys))
    return TaskDecision(chosen, _basis_of(view, world, keys) if task.node else ())


def ended_by_failure(task: pb.TaskStatus | None) -> pb.TaskStatus | None:
    """``task`` of a release that has failed: one that has not ended by then has failed with it, and is never begun."""
    if task is None or task.phase in _ENDED:
        return task
    return _failed(task, "it had not ended when the release failed")


def describe_task(task: pb.TaskStatus) -> str:
    """How the task fares, for people; the node is named, and of one that failed the exit code and the last lines."""
    where = f" on {task.node}" if task.node else ""
    if task.phase == _Phase.RUNNING:
        return f'the release task "{task.name}" is running{where}'
    if task.phase == _Phase.SUCCEEDED:
        return f'the release task "{task.name}" has succeeded{where}'
    if task.phase != _Phase.FAILED:
        return f"the release task waits{where}: {task.reason or 'it has not been started yet'}"
    said = f'the release task "{task.name}" failed{where}: {task.reason or "no reason given"}'
    exit_code = f"exit code {task.exit.code}"
    if task.HasField("exit") and task.exit.HasField("code") and exit_code not in task.reason:
        said += f" ({exit_code}{', out of memory' if task.exit.oom_killed else ''})"
    lines = [line.strip() for line in task.exit.log_lines if line.strip()][-_LINES_SHOWN:]
    return f"{said}; its last lines: {' | '.join(lines)}" if lines else said


def _recorded(world: EnvironmentSnapshot, release: pb.Release) -> pb.TaskStatus | None:
    """What the Rollout says about the task of ``release``; None if it is about another release, or says nothing."""
    rollout = message_of(world.rollout)
    if rollout is None or rollout.release != release.number or not rollout.HasField("task"):
        return None
    return rollout.task


def _recovered(world: EnvironmentSnapshot, release: pb.Release) -> pb.TaskStatus:
    """What the assignments and the statuses say about a task of which there is no record.

    Nobody but the task's node has an assignment of the release before the task has succeeded. After the release has
    failed nobody may have one: so where a record was, it has begun for all that is known.
    """
    task = _fresh(release)
    for view in world.nodes:
        status, assignment = _status_of(view), _assignment_of(view)
        if assignment is not None and assignment.release == release.number and not assignment.HasField("task"):
            if is_partial(assignment):
                task.node = view.name
                return _failed(task, "it had not ended when the release failed")
            task.phase = _Phase.SUCCEEDED
            return task
        if status is not None and _is_about(status, task):
            task = _as_reported(task, status, view.name)
            if task.phase not in _ENDED and not _may_go_on(view, status, release.number):
                # It was taken back, or given to another machine, after this was reported.
                return _failed(task, "the record of it is lost, and its outcome is not known")
        elif assignment is not None and _carries(assignment, release.number):
            task.node = view.name
    if task.node or _knows_of_another(world, release):
        return task
    records = [world.rollout, *(one.assignment for one in world.nodes)]
    unreadable = [record.error for record in records if record is not None and record.error is not None]
    if unreadable:
        return _failed(task, f"the record of it is lost, and whether it has run cannot be told: {unreadable[0]}")
    return task


def _knows_of_another(world: EnvironmentSnapshot, release: pb.Release) -> bool:
    """Whether the Rollout can be read and is about an earlier release: then nobody was told of this one's task yet."""
    rollout = message_of(world.rollout)
    return rollout is not None and rollout.release < release.number


def _fresh(release: pb.Release) -> pb.TaskStatus:
    task = release.release_task
    return pb.TaskStatus(name=task.name, service=task.service, release=release.number, phase=_Phase.WAITING)


def _followed(task: pb.TaskStatus, view: NodeView) -> pb.TaskStatus:
    """``task`` with what its node reports; a report about another generation, machine or release does not count."""
    status, assignment = _status_of(view), _assignment_of(view)
    if status is None or assignment is None or not _carries(assignment, task.release) or not _is_about(status, task):
        return task
    if (status.node_uid, status.generation) != (assignment.node_uid, assignment.generation):
        return task
    return _as_reported(task, status, task.node)


def _as_reported(task: pb.TaskStatus, status: pb.AssignmentStatus, node: str) -> pb.TaskStatus:
    """``task`` as ``status``, which is about it, says; it never goes back."""
    made = pb.TaskStatus()
    made.CopyFrom(status.task if status.task.phase >= task.phase else task)
    made.service, made.node = task.service, node
    return made


def _was_told(task: pb.TaskStatus, view: NodeView) -> bool:
    """Whether the node may have been told of its task; in doubt it has."""
    status, assignment = _status_of(view), _assignment_of(view)
    return (
        task.phase == _Phase.RUNNING
        or (view.assignment is not None and view.assignment.error is not None)
        or (assignment is not None and _carries(assignment, task.release))
        or (status is not None and _is_about(status, task))
    )


def _why_lost(task: pb.TaskStatus, view: NodeView, attached: frozenset[str]) -> str:
    """Why the node that was told of the task will never report how it ended; empty if it may."""
    assignment = _assignment_of(view)
    node = message_of(view.node)
    if task.node not in attached:
        happened = f"{task.node} was detached"
    elif view.node is None:
        happened = f"{task.node} is no longer registered"
    elif node is not None and assignment is not None and assignment.node_uid != node.uid:
        happened = f"{task.node} was registered anew, as another machine"
    else:
        return ""
    if task.phase == _Phase.RUNNING:
        return f"{happened} while it was running there; its outcome is not known"
    return f"{happened} before it was known to have run there"


def _failed(task: pb.TaskStatus, why: str) -> pb.TaskStatus:
    made = pb.TaskStatus()
    made.CopyFrom(task)
    made.phase, made.reason = _Phase.FAILED, why
    return made


def _chosen(
    world: EnvironmentSnapshot, attached: frozenset[str], release: pb.Release, service: workload_pb2.Service
) -> pb.TaskStatus:
    """The task on the node that is to run it, or on none, with the reason.

    The node where the task of the release before has not ended, else the first by name; one that answers before one
    that does not. It is not begun while a service of the release cannot run anywhere.
    """
    task = _fresh(release)
    records = [view.node for view in world.nodes if view.name in attached]
    nodes = [record.message for record in records if record is not None and record.message is not None]
    all_known = all(record is None or record.error is None for record in records)
    if all_known and (nowhere := unplaced(release.services, nodes)):
        task.reason = _why_nowhere(nowhere[0], nodes, attached)
        return task
    candidates = [view for view in world.nodes if _qualifies(view, service, attached)]
    if not candidates:
        task.reason = _why_nobody(world, attached, service, nodes)
        return task
    busy = _busy_node(world)
    candidates.sort(key=lambda view: (view.name != busy, not _answers(view), view.name))
    task.node = candidates[0].name
    return task


def _why_nobody(
    world: EnvironmentSnapshot, attached: frozenset[str], service: workload_pb2.Service, nodes: Sequence[pb.Node]
) -> str:
    for view in world.nodes:
        for record in (view.node, view.assignment):
            if view.name in attached and record is not None and record.error is not None:
                return f"{view.name}: {record.error}"
    return _why_nowhere(service, nodes, attached)


def _why_nowhere(service: workload_pb2.Service, nodes: Sequence[pb.Node], attached: frozenset[str]) -> str:
    if attached and not nodes:
        return "no attached node is registered"
    return str(why_nowhere(service, nodes))


def _busy_node(world: EnvironmentSnapshot) -> str:
    """Where the task of the release that the Rollout is about has not ended."""
    rollout = message_of(world.rollout)
    return rollout.task.node if rollout is not None and rollout.task.phase not in _ENDED else ""


def _qualifies(view: NodeView, service: workload_pb2.Service, attached: frozenset[str]) -> bool:
    """Whether the node may be given the task; what it runs must be known, because it is to be kept."""
    node = message_of(view.node)
    known = view.assignment is None or view.assignment.error is None
    return view.name in attached and node is not None and known and places(service, node)


def _answers(view: NodeView) -> bool:
    node = message_of(view.node)
    heartbeat = message_of(view.heartbeat)
    return node is not None and heartbeat is not None and heartbeat.uid == node.uid


def _status_of(view: NodeView) -> pb.AssignmentStatus | None:
    return message_of(view.status)


def _assignment_of(view: NodeView) -> pb.Assignment | None:
    """The assignment, if it can be read and is no tombstone."""
    found = message_of(view.assignment)
    return found if found is not None and not found.removed else None


def _carries(assignment: pb.Assignment, release: int) -> bool:
    return assignment.HasField("task") and assignment.release == release


def _is_about(status: pb.AssignmentStatus, task: pb.TaskStatus) -> bool:
    return status.HasField("task") and (status.task.release, status.task.name) == (task.release, task.name)


def _may_go_on(view: NodeView, status: pb.AssignmentStatus, release: int) -> bool:
    """Whether the machine that reports the task of ``release`` may still be the one that has it."""
    assignment = _assignment_of(view)
    if assignment is not None:
        return _carries(assignment, release) and assignment.node_uid == status.node_uid
    node = message_of(view.node)
    return node is None or node.uid == status.node_uid


def _basis_of(view: NodeView, world: EnvironmentSnapshot, keys: Keys) -> list[Precondition]:
    """The Node (old copies of it must not end a task) and, where it is known, the assignment.

    Of a node that has nothing to do with the environment any more nothing is known: the environment says so.
    """
    if view not in world.nodes:
        return []
    basis = [Precondition(keys.node(view.name), revision_of(view.node))]
    if view.assignment is not None:
        basis.append(Precondition(view.assignment.key, view.assignment.mod_revision))
    return basis


def _basis_of_assignments(world: EnvironmentSnapshot, keys: Keys) -> list[Precondition]:
    """What a choice without any record rests on: that nobody has been told of the task."""
    return [
        Precondition(keys.assignment(view.name, world.ref), revision_of(view.assignment))
        for view in world.nodes[:_MAX_ASSIGNMENTS_COMPARED]
    ]
