"""Progress of one node with its assignment, worked out from its heartbeat and status. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.model.snapshot import NodeView
from devopsellence.controller.rollout.task import describe_task
from devopsellence.exits import describe_exit, last_output
from devopsellence.placement import is_settled
from devopsellence.store.record import message_of

_Phase = pb.NodeProgress
_Service = pb.ServiceStatus
_STARTED: Final = (_Service.STARTING, _Service.RUNNING, _Service.COMPLETED)
_PHASE_WORDS: Final[dict[int, str]] = {
    _Service.PENDING: "waits to be started",
    _Service.PULLING: "its image is being pulled",
    _Service.STARTING: "is starting",
    _Service.RUNNING: "is running, not yet healthy",
    _Service.BACKOFF: "has ended or could not be started, and will be tried again",
    _Service.STOPPING: "is stopping",
    _Service.COMPLETED: "has completed",
}


class Hold(Enum):
    """Reasons for not updating a node while other nodes update."""

    #: The node waits for its batch.
    BATCH = auto()
    #: The release task has not succeeded.
    TASK = auto()
    #: The rollout has halted.
    HALT = auto()
    #: The node is cordoned or drained, or its release cannot be read. The rollout does not wait for the node.
    EXCLUDED = auto()


@dataclass(frozen=True, slots=True)
class PlannedNode:
    """An attached node with its assignment once the plan is written."""

    view: NodeView
    #: None: the node has no assignment, or keeps an unreadable assignment.
    assignment: pb.Assignment | None
    #: None: the node is not held. Otherwise ``why`` is a sentence about the hold with the name of the node.
    hold: Hold | None = None
    why: str = ""
    #: The release task, if it runs on this node and has not succeeded.
    task: pb.TaskStatus | None = None
    #: Services of the release before, kept until the task has succeeded.
    kept: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class NodeProgress:
    """Progress of a node, and its meaning for the rollout."""

    name: str
    phase: pb.NodeProgress.Phase.ValueType
    #: A sentence with the name of the node, or empty.
    reason: str
    #: Release of the assignment; 0 without an assignment.
    release: int
    services_settled: int
    services_total: int
    #: The rollout waits for this node.
    waited_for: bool = True
    #: The agent is reachable, and all records of the node can be read.
    reachable: bool = True
    #: Why the agent gave up a service at this generation of the assignment; empty: no service was given up.
    given_up: str = ""
    hold: Hold | None = None
    #: The service that ``reason`` is about, with its last output; None if it is about something else.
    failure: pb.ServiceFailure | None = None
    #: Nothing is left to do on the node but to wait for older containers: for their requests to end, or for their stop.
    waits_for_older: bool = False
    #: Services whose container of the assignment has been started, settled or not.
    services_started: int = 0

    @property
    def done(self) -> bool:
        """Return whether all of the assignment has settled."""
        return self.phase == _Phase.SETTLED


def progress_of(planned: PlannedNode) -> NodeProgress:
    """Return the progress of an attached node; every reason contains the name of the node."""
    inputs = (planned.assignment, planned.hold, planned.why, planned.task, planned.kept)
    return planned.view.recall("progress", inputs, lambda: _progress_of(planned))


def _progress_of(planned: PlannedNode) -> NodeProgress:
    view, assignment = planned.view, planned.assignment
    status = status_of(view, assignment)
    if reason := _unreadable(planned):
        return _progress(planned, _Phase.ERROR, reason, reachable=False)
    needed = planned.task is not None
    if reason := _unreachable(view, needed=needed):
        return _progress(planned, _Phase.UNREACHABLE, reason, status, reachable=False, waited_for=needed)
    if planned.hold is not None:
        return _held_progress(planned, planned.hold, status)
    if planned.task is not None:
        return _task_progress(planned, planned.task, status)
    if assignment is None or status is None:
        generation = assignment.generation if assignment is not None else 0
        reason = f"{view.name} has not yet reported generation {generation} of its assignment"
        return _progress(planned, _Phase.PENDING, reason)
    return _status_progress(planned, assignment, status)


def _held_progress(planned: PlannedNode, hold: Hold, status: pb.AssignmentStatus | None) -> NodeProgress:
    """Return the progress of a held node; a failure there is reported, but is no failure of the target."""
    given_up = _given_up(planned, status)
    reason = f"{planned.why}; {given_up}" if given_up else planned.why
    return _progress(planned, _Phase.WAITING, reason, hold=hold, waited_for=hold is not Hold.EXCLUDED)


def _task_progress(planned: PlannedNode, task: pb.TaskStatus, status: pb.AssignmentStatus | None) -> NodeProgress:
    """Return the progress of the node of the release task; services kept from before are no failure of the release."""
    name = planned.view.name
    if task.phase == pb.TaskStatus.FAILED:
        return _progress(planned, _Phase.FAILED, describe_task(task), status)
    if status is None:
        generation = planned.assignment.generation if planned.assignment is not None else 0
        reason = f"the release task waits on {name}: it has not yet reported generation {generation} of its assignment"
        return _progress(
            planned, _Phase.PENDING, reason if task.phase != pb.TaskStatus.RUNNING else describe_task(task)
        )
    if status.phase == pb.AssignmentStatus.ERROR:
        reason = f"{name} cannot read its assignment: {status.reason or 'no reason given'}"
        return _progress(planned, _Phase.ERROR, reason, status)
    given_up = _given_up(planned, status)
    if given_up and task.phase != pb.TaskStatus.RUNNING:
        reason = f"the release task cannot begin: {given_up}"
        failure = failure_of(_given_up_service(planned, status), status, name)
        return _progress(planned, _Phase.FAILED, reason, status, given_up=reason, failure=failure)
    problem = _problem(planned.view)
    reason = f"{describe_task(task)}; {problem}" if problem else describe_task(task)
    return _progress(planned, _Phase.CONVERGING, reason, status)


def _status_progress(planned: PlannedNode, assignment: pb.Assignment, status: pb.AssignmentStatus) -> NodeProgress:
    name = planned.view.name
    if status.phase == pb.AssignmentStatus.ERROR:
        reason = f"{name} cannot read its assignment: {status.reason or 'no reason given'}"
        return _progress(planned, _Phase.ERROR, reason, status)
    if given_up := _given_up(planned, status):
        failure = failure_of(_given_up_service(planned, status), status, name)
        return _progress(planned, _Phase.FAILED, given_up, status, given_up=given_up, failure=failure)
    if problem := _problem(planned.view):
        return _progress(planned, _Phase.CONVERGING, problem, status)
    if status.phase == pb.AssignmentStatus.SETTLED:
        return _progress(planned, _Phase.SETTLED, _why_not_routed(assignment, status, name), status)
    phase = _Phase.FAILED if status.phase == pb.AssignmentStatus.FAILED else _Phase.CONVERGING
    failure = failure_of(_unsettled_service(status), status, name)
    return _progress(planned, phase, _why_unsettled(assignment, status, name), status, failure=failure)


def failure_of(service: pb.ServiceStatus | None, status: pb.AssignmentStatus, node: str) -> pb.ServiceFailure | None:
    """Return what is known of the failure of a service, for the record of a failed rollout; None for no service."""
    if service is None:
        return None
    return pb.ServiceFailure(
        node=node,
        service=service.name,
        release=status.release,
        reason=service.reason,
        log_lines=last_output(service),
    )


def describe_service(service: pb.ServiceStatus, node: str) -> str:
    """Return a sentence about an unsettled service, with its name, node and last exit code."""
    reason = service.reason or _PHASE_WORDS.get(service.phase, "is in a phase that this version does not know")
    describe_task = f'service "{service.name}" on {node}: {reason}'
    end = service.last_exit
    if service.HasField("last_exit") and end.HasField("code") and f"exit code {end.code}" not in reason:
        describe_task += f" ({describe_exit(end.code, oom_killed=end.oom_killed)})"
    return describe_task


def _why_not_routed(assignment: pb.Assignment, status: pb.AssignmentStatus, node: str) -> str:
    """Return the ingress problem reported by the node, or ""; an ingress problem fails no rollout."""
    if not assignment.HasField("ingress") or status.ingress.phase != pb.IngressStatus.FAILED:
        return ""
    return f"ingress on {node}: {status.ingress.reason or 'no reason given'}"


def _progress(
    planned: PlannedNode,
    phase: pb.NodeProgress.Phase.ValueType,
    reason: str,
    status: pb.AssignmentStatus | None = None,
    *,
    waited_for: bool = True,
    reachable: bool = True,
    given_up: str = "",
    hold: Hold | None = None,
    failure: pb.ServiceFailure | None = None,
) -> NodeProgress:
    """Return the progress of ``planned``; settled services are counted in ``status``."""
    assignment = planned.assignment
    if assignment is None:
        return NodeProgress(planned.view.name, phase, reason, 0, 0, 0, waited_for, reachable, given_up, hold, failure)
    settled = _count_settled(assignment, status) if status is not None else 0
    total = len(assignment.services)
    name = planned.view.name
    waits = status is not None and _only_waits_for_older(planned, status)
    started = _count_started(assignment, status) if status is not None else 0
    return NodeProgress(
        name,
        phase,
        reason,
        assignment.release,
        settled,
        total,
        waited_for,
        reachable,
        given_up,
        hold,
        failure,
        waits,
        started,
    )


def _only_waits_for_older(planned: PlannedNode, status: pb.AssignmentStatus) -> bool:
    """Return whether every unsettled service waits for an older container, kept services aside."""
    waiting = {service.name for service in status.services if service.waits_for_older}
    if not waiting or _problem(planned.view):
        return False
    return all(
        service.name in waiting or service.name in planned.kept or is_settled(service) for service in status.services
    )


def _given_up(planned: PlannedNode, status: pb.AssignmentStatus | None) -> str:
    """Return a sentence about what the agent gave up: the environment, or a service, kept services aside; empty if
    there is none."""
    if status is not None and status.problem:
        return f"no service can be started on {planned.view.name}: {status.problem}"
    service = _given_up_service(planned, status)
    return describe_service(service, planned.view.name) if service is not None else ""


def _given_up_service(planned: PlannedNode, status: pb.AssignmentStatus | None) -> pb.ServiceStatus | None:
    for service in status.services if status is not None and not status.problem else ():
        if service.failed and service.name not in planned.kept:
            return service
    return None


def _problem(view: NodeView) -> str:
    """Return why the agent of the node cannot work at the moment; empty if it can."""
    problem = view.heartbeat.message.problem if view.heartbeat is not None and view.heartbeat.message else ""
    return f"the agent of {view.name} cannot work: {problem}" if problem else ""


def _unreadable(planned: PlannedNode) -> str:
    """Return which record of this node cannot be read; empty if all can be read."""
    view = planned.view
    for record in (view.node, view.heartbeat, view.status):
        if record is not None and record.error is not None:
            return f"{view.name}: {record.error}"
    # An unreadable assignment is replaced, unless the node is held.
    if planned.assignment is None and view.assignment is not None and view.assignment.error is not None:
        return f"{view.name}: {view.assignment.error}"
    return ""


def _unreachable(view: NodeView, *, needed: bool) -> str:
    """Return why the node is unreachable; empty if reachable. ``needed``: the release task runs there."""
    if view.node is None or view.node.message is None:
        return f"{view.name} is attached but not registered; run devopsellence node register {view.name}, or detach it"
    waits = "the release task waits for it" if needed else "it is not waited for"
    if view.heartbeat is None or view.heartbeat.message is None:
        return f"{view.name} has no heartbeat: its agent is not running or cannot reach etcd; {waits}"
    if view.heartbeat.message.uid != view.node.message.uid:
        return f"the agent that answers as {view.name} was started for an earlier registration of that name"
    if view.heartbeat.message.without_engine:
        return f"{view.name} has no Docker Engine: {view.heartbeat.message.problem}; {waits}"
    return ""


def status_of(view: NodeView, assignment: pb.Assignment | None) -> pb.AssignmentStatus | None:
    """Return the status if it is about this generation of ``assignment`` and from the assigned machine."""
    status = message_of(view.status)
    if status is None or assignment is None or status.node_uid != assignment.node_uid:
        return None
    # An agent with an unreadable assignment does not know the generation.
    unknown = status.phase == pb.AssignmentStatus.ERROR and status.generation == 0
    return status if unknown or status.generation == assignment.generation else None


def _count_settled(assignment: pb.Assignment, status: pb.AssignmentStatus) -> int:
    if status.phase == pb.AssignmentStatus.SETTLED:
        return len(assignment.services)
    assigned = {service.name for service in assignment.services}
    return sum(1 for service in status.services if service.name in assigned and is_settled(service))


def _count_started(assignment: pb.Assignment, status: pb.AssignmentStatus) -> int:
    assigned = {service.name for service in assignment.services}
    return sum(1 for service in status.services if service.name in assigned and service.phase in _STARTED)


def _why_unsettled(assignment: pb.Assignment, status: pb.AssignmentStatus, node: str) -> str:
    reported = {service.name: service for service in status.services}
    unsettled = _unsettled_service(status)
    if unsettled is not None:
        return describe_service(unsettled, node)
    if waiting := next((service for service in status.services if service.waits_for_older), None):
        return f'service "{waiting.name}" on {node}: {waiting.reason or "waits for an older container to stop"}'
    for service in assignment.services:
        if service.name not in reported:
            return f'service "{service.name}" on {node} has not been started yet'
    return f"{node}: {status.reason or 'is being converged'}"


def _unsettled_service(status: pb.AssignmentStatus) -> pb.ServiceStatus | None:
    """Return the most telling unsettled service: one that ended, then one that starts, then one that waits."""
    unsettled = [service for service in status.services if not is_settled(service)]
    unsettled.sort(key=lambda service: (service.phase != _Service.BACKOFF, service.phase == _Service.PENDING))
    return unsettled[0] if unsettled else None
