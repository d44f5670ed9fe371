"""Release task of the newest release: its node and its status. Pure.

A task starts at most once per release. Its node is chosen once and recorded in the Rollout before the node is assigned
the task. A lost record is recovered from assignments and statuses; if it is unknown whether the task has run, the task
has failed. The status of an ended task never changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.api.v1 import workload_pb2
from devopsellence.controller.model.actions import Precondition
from devopsellence.controller.model.snapshot import EnvironmentSnapshot, NodeView, is_partial
from devopsellence.exits import describe_exit
from devopsellence.placement import may_run, unplaced_services, why_nowhere
from devopsellence.store.keys import Keys
from devopsellence.store.record import message_of, revision_of

# Largest number of assignments among the preconditions of a choice; leaves room in the transaction for the rest.
_MAX_ASSIGNMENTS_COMPARED: Final = 60
_LINES_SHOWN: Final = 3
_Phase = pb.TaskStatus
#: Names of nodes that may run the task in a service, the best first.
NodeOrder: TypeAlias = Callable[[workload_pb2.Service, Sequence[NodeView]], Sequence[str]]
_ENDED: Final = (_Phase.SUCCEEDED, _Phase.FAILED)


@dataclass(frozen=True, slots=True)
class TaskDecision:
    """Status of the task to record (None: the release has no task), and the preconditions."""

    task: pb.TaskStatus | None = None
    rests_on: Sequence[Precondition] = ()


def decide_task(
    snapshot: EnvironmentSnapshot,
    attached: frozenset[str],
    release: pb.Release,
    order: NodeOrder,
    keys: Keys,
) -> TaskDecision:
    """Return the node and the status of the task of ``release``; ``order`` says which node is best.

    The node is "" while no node qualifies: the reason says why, and the next plan looks again.
    """
    if not release.HasField("release_task"):
        return TaskDecision()
    recorded = _recorded(snapshot, release)
    task = recorded if recorded is not None else _recovered(snapshot, release)
    if task.phase in _ENDED:
        return TaskDecision(task)
    service = next((service for service in release.services if service.name == task.service), None)
    if service is None:
        return TaskDecision(_failed(task, f'release {release.number} has no service "{task.service}" for it to run in'))
    view = next((view for view in snapshot.nodes if view.name == task.node), NodeView(task.node))
    if task.node:
        task = _followed(task, view)
    if task.phase in _ENDED:
        return TaskDecision(task)
    assigned = bool(task.node) and _may_be_assigned(task, view)
    if assigned:
        why = _why_lost(task, view, attached)
        return TaskDecision(_failed(task, why), _preconditions_of(view, snapshot, keys)) if why else TaskDecision(task)
    if task.node and _qualifies(view, service, attached):
        return TaskDecision(task)
    chosen = _chosen(snapshot, attached, release, service, order)
    if recorded is None:
        return TaskDecision(
            chosen, () if _knows_of_another(snapshot, release) else _preconditions_of_choice(snapshot, keys)
        )
    return TaskDecision(chosen, _preconditions_of(view, snapshot, keys) if task.node else ())


def ended_by_failure(task: pb.TaskStatus | None) -> pb.TaskStatus | None:
    """Return ``task`` of a failed release: a task that has not ended has failed with the release and never starts."""
    if task is None or task.phase in _ENDED:
        return task
    return _failed(task, "it had not ended when the release failed")


def describe_task(task: pb.TaskStatus) -> str:
    """Return a sentence about the task, with its node and, after a failure, the exit code and the last log lines."""
    where = f" on {task.node}" if task.node else ""
    if task.phase == _Phase.RUNNING:
        return f'the release task "{task.name}" is running{where}'
    if task.phase == _Phase.SUCCEEDED:
        return f'the release task "{task.name}" has succeeded{where}'
    if task.phase != _Phase.FAILED:
        return f"the release task waits{where}: {task.reason or 'it has not been started yet'}"
    text = f'the release task "{task.name}" failed{where}: {task.reason or "no reason given"}'
    exit_code = f"exit code {task.exit.code}"
    if task.HasField("exit") and task.exit.HasField("code") and exit_code not in task.reason:
        text += f" ({describe_exit(task.exit.code, oom_killed=task.exit.oom_killed)})"
    lines = [line.strip() for line in task.exit.log_lines if line.strip()][-_LINES_SHOWN:]
    return f"{text}; its last lines: {' | '.join(lines)}" if lines else text


def _recorded(snapshot: EnvironmentSnapshot, release: pb.Release) -> pb.TaskStatus | None:
    """Return the recorded status of the task of ``release``; None if the Rollout has none."""
    rollout = message_of(snapshot.rollout)
    if rollout is None or rollout.release != release.number or not rollout.HasField("task"):
        return None
    return rollout.task


def _recovered(snapshot: EnvironmentSnapshot, release: pb.Release) -> pb.TaskStatus:
    """Return the status of a task without a record, worked out from assignments and statuses.

    Before the task has succeeded, only its node has an assignment of the release. After the failure of the release no
    node may have one, so a lost record may mean that the task has started.
    """
    task = _fresh(release)
    assignments = [assignment for view in snapshot.nodes if (assignment := view.current_assignment) is not None]
    if any(assignment.release == release.number and not is_partial(assignment) for assignment in assignments):
        task.phase = _Phase.SUCCEEDED
        return task
    for view in snapshot.nodes:
        status, assignment = _status_of(view), view.current_assignment
        if assignment is not None and assignment.release == release.number and not assignment.HasField("task"):
            task.node = view.name
            return _failed(task, "it had not ended when the release failed")
        if status is not None and _is_about(status, task):
            task = _as_reported(task, status, view.name)
            if task.phase not in _ENDED and not _may_go_on(view, status, release.number):
                # After this report the task was withdrawn or assigned to another machine.
                return _failed(task, "the record of it is lost, and its outcome is not known")
        elif assignment is not None and _carries(assignment, release.number):
            task.node = view.name
    if task.node or _knows_of_another(snapshot, release):
        return task
    records = [snapshot.rollout, *(view.assignment for view in snapshot.nodes)]
    unreadable = [record.error for record in records if record is not None and record.error is not None]
    if unreadable:
        return _failed(task, f"the record of it is lost, and whether it has run cannot be told: {unreadable[0]}")
    return task


def _knows_of_another(snapshot: EnvironmentSnapshot, release: pb.Release) -> bool:
    """Return whether the Rollout belongs to an earlier release, so that no node has been assigned this task yet."""
    rollout = message_of(snapshot.rollout)
    return rollout is not None and rollout.release < release.number


def _fresh(release: pb.Release) -> pb.TaskStatus:
    task = release.release_task
    return pb.TaskStatus(name=task.name, service=task.service, release=release.number, phase=_Phase.WAITING)


def _followed(task: pb.TaskStatus, view: NodeView) -> pb.TaskStatus:
    """Return ``task`` as reported by its node; reports on another generation, machine or release do not count."""
    status, assignment = _status_of(view), view.current_assignment
    if status is None or assignment is None or not _carries(assignment, task.release) or not _is_about(status, task):
        return task
    if (status.node_uid, status.generation) != (assignment.node_uid, assignment.generation):
        return task
    return _as_reported(task, status, task.node)


def _as_reported(task: pb.TaskStatus, status: pb.AssignmentStatus, node: str) -> pb.TaskStatus:
    """Return ``task`` with the phase reported in ``status``; the phase never goes back."""
    result = pb.TaskStatus()
    result.CopyFrom(status.task if status.task.phase >= task.phase else task)
    result.service, result.node = task.service, node
    return result


def _may_be_assigned(task: pb.TaskStatus, view: NodeView) -> bool:
    """Return whether the node may have been assigned the task; True if that is unknown."""
    status, assignment = _status_of(view), view.current_assignment
    return (
        task.phase == _Phase.RUNNING
        or (view.assignment is not None and view.assignment.error is not None)
        or (assignment is not None and _carries(assignment, task.release))
        or (status is not None and _is_about(status, task))
    )


def _why_lost(task: pb.TaskStatus, view: NodeView, attached: frozenset[str]) -> str:
    """Return why the node of the task will never report its end; empty if it may."""
    assignment = view.current_assignment
    node = message_of(view.node)
    if task.node not in attached:
        happened = f"{task.node} was detached"
    elif view.node is None:
        happened = f"{task.node} is no longer registered"
    elif node is not None and assignment is not None and assignment.node_uid != node.uid:
        happened = f"{task.node} was registered again, as another machine"
    else:
        return ""
    if task.phase == _Phase.RUNNING:
        return f"{happened} while it was running there; its outcome is not known"
    return f"{happened} before it was known to have run there"


def _failed(task: pb.TaskStatus, why: str) -> pb.TaskStatus:
    result = pb.TaskStatus()
    result.CopyFrom(task)
    result.phase, result.reason = _Phase.FAILED, why
    return result


def _chosen(
    snapshot: EnvironmentSnapshot,
    attached: frozenset[str],
    release: pb.Release,
    service: workload_pb2.Service,
    order: NodeOrder,
) -> pb.TaskStatus:
    """Return the task with its node, or without a node and with the reason.

    First choice is the node where the task of the release before has not ended, then the best by placement. No
    node is chosen while a service of the release cannot run anywhere.
    """
    task = _fresh(release)
    records = [view.node for view in snapshot.nodes if view.name in attached]
    nodes = [record.message for record in records if record is not None and record.message is not None]
    all_known = all(record is None or record.error is None for record in records)
    if all_known and (nowhere := unplaced_services(release.services, nodes)):
        task.reason = _why_nowhere(nowhere[0], nodes, attached)
        return task
    candidates = [view for view in snapshot.nodes if _qualifies(view, service, attached)]
    if not candidates:
        task.reason = _why_no_node(snapshot, attached, service, nodes)
        return task
    best, busy = order(service, candidates), _busy_node(snapshot)
    task.node = busy if busy in best else best[0]
    return task


def _why_no_node(
    snapshot: EnvironmentSnapshot, attached: frozenset[str], service: workload_pb2.Service, nodes: Sequence[pb.Node]
) -> str:
    for view in snapshot.nodes:
        for record in (view.node, view.assignment):
            if view.name in attached and record is not None and record.error is not None:
                return f"{view.name}: {record.error}"
    return _why_nowhere(service, nodes, attached)


def _why_nowhere(service: workload_pb2.Service, nodes: Sequence[pb.Node], attached: frozenset[str]) -> str:
    if attached and not nodes:
        return "no attached node is registered"
    return str(why_nowhere(service, nodes))


def _busy_node(snapshot: EnvironmentSnapshot) -> str:
    """Return the node where the task of the recorded release has not ended."""
    rollout = message_of(snapshot.rollout)
    return rollout.task.node if rollout is not None and rollout.task.phase not in _ENDED else ""


def _qualifies(view: NodeView, service: workload_pb2.Service, attached: frozenset[str]) -> bool:
    """Return whether the node can run the task; its assignment must be readable, because its services are kept."""
    node = message_of(view.node)
    known = view.assignment is None or view.assignment.error is None
    return view.name in attached and node is not None and known and may_run(service, node)


def _status_of(view: NodeView) -> pb.AssignmentStatus | None:
    return message_of(view.status)


def _carries(assignment: pb.Assignment, release: int) -> bool:
    return assignment.HasField("task") and assignment.release == release


def _is_about(status: pb.AssignmentStatus, task: pb.TaskStatus) -> bool:
    return status.HasField("task") and (status.task.release, status.task.name) == (task.release, task.name)


def _may_go_on(view: NodeView, status: pb.AssignmentStatus, release: int) -> bool:
    """Return whether the reporting machine may still be the machine assigned the task of ``release``."""
    assignment = view.current_assignment
    if assignment is not None:
        return _carries(assignment, release) and assignment.node_uid == status.node_uid
    node = message_of(view.node)
    return node is None or node.uid == status.node_uid


def _preconditions_of(view: NodeView, snapshot: EnvironmentSnapshot, keys: Keys) -> list[Precondition]:
    """Return the Node (an old copy of it must not end a task) and, if there is one, the assignment.

    The result is empty for a node outside of the environment.
    """
    if view not in snapshot.nodes:
        return []
    preconditions = [Precondition(keys.node(view.name), revision_of(view.node))]
    if view.assignment is not None:
        preconditions.append(Precondition(view.assignment.key, view.assignment.mod_revision))
    return preconditions


def _preconditions_of_choice(snapshot: EnvironmentSnapshot, keys: Keys) -> list[Precondition]:
    """Return the preconditions of a choice without a record: no node has been assigned the task."""
    return [
        Precondition(keys.assignment(view.name, snapshot.ref), revision_of(view.assignment))
        for view in snapshot.nodes[:_MAX_ASSIGNMENTS_COMPARED]
    ]
