"""How one node fares with its assignment: heartbeat and status folded into a Judgement. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.model.snapshot import NodeView
from devopsellence.controller.rollout.task import describe_task
from devopsellence.store.record import message_of

_Phase = pb.NodeProgress
_Service = pb.ServiceStatus
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
    """Why a node is left at what it has while others move on."""

    # Its turn has not come.
    TURN = auto()
    # The release task has not succeeded.
    TASK = auto()
    # The rollout has halted.
    HALT = auto()
    # It takes no part: it is cordoned or drained, or it is not known what it is to run. Not waited for.
    OUT = auto()


@dataclass(frozen=True, slots=True)
class PlannedNode:
    """An attached node, with what it should run once the plan is written."""

    view: NodeView
    # None: it has no assignment, or one that cannot be read and is kept nevertheless.
    assignment: pb.Assignment | None
    # None: it is not held; otherwise ``why`` is a sentence about it that names the node.
    hold: Hold | None = None
    why: str = ""
    # The release task, where it is this node's and has not succeeded.
    task: pb.TaskStatus | None = None
    # The services that it keeps as they were while the task has not succeeded.
    kept: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class NodeProgress:
    """A node's progress, and what it means for the rollout."""

    node: str
    phase: pb.NodeProgress.Phase.ValueType
    # Names the node; empty when there is nothing to say.
    reason: str
    # Of its assignment; 0 without one.
    release: int
    services_settled: int
    services_total: int
    # The rollout waits for this node.
    waited_for: bool = True
    # Its agent answers, and what is stored about it can be read.
    answers: bool = True
    # Why a service was given up at the assignment's generation; empty: none was.
    given_up: str = ""
    hold: Hold | None = None

    @property
    def done(self) -> bool:
        """Whether all of its assignment has settled."""
        return self.phase == _Phase.SETTLED


def progress_of(standing: PlannedNode) -> NodeProgress:
    """How one attached node fares; every reason names the node."""
    given = (standing.assignment, standing.hold, standing.why, standing.task, standing.kept)
    return standing.view.recall("judge", given, lambda: _judge(standing))


def _judge(standing: PlannedNode) -> NodeProgress:
    view, assignment = standing.view, standing.assignment
    status = _status_of(view, assignment)
    if reason := _unreadable(standing):
        return _judged(standing, _Phase.ERROR, reason, answers=False)
    needed = standing.task is not None
    if reason := _unreachable(view, needed=needed):
        return _judged(standing, _Phase.UNREACHABLE, reason, status, answers=False, waited_for=needed)
    if standing.hold is not None:
        return _judge_held(standing, standing.hold, status)
    if standing.task is not None:
        return _judge_task(standing, standing.task, status)
    if assignment is None or status is None:
        generation = assignment.generation if assignment is not None else 0
        reason = f"{view.name} has not yet reported generation {generation} of its assignment"
        return _judged(standing, _Phase.PENDING, reason)
    return _judge_status(standing, assignment, status)


def _judge_held(standing: PlannedNode, hold: Hold, status: pb.AssignmentStatus | None) -> NodeProgress:
    """A node that keeps what it has: what has failed there is said, but is not the target's failure."""
    given_up = _given_up(standing, status)
    reason = f"{standing.why}; {given_up}" if given_up else standing.why
    return _judged(standing, _Phase.WAITING, reason, hold=hold, waited_for=hold is not Hold.OUT)


def _judge_task(standing: PlannedNode, task: pb.TaskStatus, status: pb.AssignmentStatus | None) -> NodeProgress:
    """The node of the release task; what it keeps as it was is not the new release's failure."""
    name = standing.view.name
    if task.phase == pb.TaskStatus.FAILED:
        return _judged(standing, _Phase.FAILED, describe_task(task), status)
    if status is None:
        generation = standing.assignment.generation if standing.assignment is not None else 0
        reason = f"the release task waits on {name}: it has not yet reported generation {generation} of its assignment"
        return _judged(standing, _Phase.PENDING, reason if task.phase != pb.TaskStatus.RUNNING else describe_task(task))
    if status.phase == pb.AssignmentStatus.ERROR:
        reason = f"{name} cannot read its assignment: {status.reason or 'no reason given'}"
        return _judged(standing, _Phase.ERROR, reason, status)
    given_up = _given_up(standing, status)
    if given_up and task.phase != pb.TaskStatus.RUNNING:
        reason = f"the release task cannot begin: {given_up}"
        return _judged(standing, _Phase.FAILED, reason, status, given_up=reason)
    problem = _problem(standing.view)
    reason = f"{describe_task(task)}; {problem}" if problem else describe_task(task)
    return _judged(standing, _Phase.CONVERGING, reason, status)


def _judge_status(standing: PlannedNode, assignment: pb.Assignment, status: pb.AssignmentStatus) -> NodeProgress:
    name = standing.view.name
    if status.phase == pb.AssignmentStatus.ERROR:
        reason = f"{name} cannot read its assignment: {status.reason or 'no reason given'}"
        return _judged(standing, _Phase.ERROR, reason, status)
    if given_up := _given_up(standing, status):
        return _judged(standing, _Phase.FAILED, given_up, status, given_up=given_up)
    if problem := _problem(standing.view):
        return _judged(standing, _Phase.CONVERGING, problem, status)
    if status.phase == pb.AssignmentStatus.SETTLED:
        return _judged(standing, _Phase.SETTLED, _why_not_routed(assignment, status, name), status)
    phase = _Phase.FAILED if status.phase == pb.AssignmentStatus.FAILED else _Phase.CONVERGING
    return _judged(standing, phase, _why_unsettled(assignment, status, name), status)


def describe_service(service: pb.ServiceStatus, node: str) -> str:
    """A sentence about a service that is not as assigned: names it, its node and its last exit code."""
    reason = service.reason or _PHASE_WORDS.get(service.phase, "is in a phase that this version does not know")
    describe_task = f'service "{service.name}" on {node}: {reason}'
    if service.HasField("last_exit") and service.last_exit.HasField("code"):
        exit_code = f"exit code {service.last_exit.code}"
        if exit_code not in reason:
            describe_task += f" ({exit_code}{', out of memory' if service.last_exit.oom_killed else ''})"
    return describe_task


def is_settled(service: pb.ServiceStatus) -> bool:
    """Whether a service runs as assigned and, where it is checked, healthy; or has completed, where others wait so."""
    return (service.phase == _Service.COMPLETED and not service.failed) or (
        service.phase == _Service.RUNNING
        and not service.failed
        and service.health not in (_Service.CHECKING, _Service.UNHEALTHY)
    )


def _why_not_routed(assignment: pb.Assignment, status: pb.AssignmentStatus, node: str) -> str:
    """What the node says about an ingress that it does not serve as assigned; that fails no rollout."""
    if not assignment.HasField("ingress") or status.ingress.phase != pb.IngressStatus.FAILED:
        return ""
    return f"ingress on {node}: {status.ingress.reason or 'no reason given'}"


def _judged(
    standing: PlannedNode,
    phase: pb.NodeProgress.Phase.ValueType,
    reason: str,
    status: pb.AssignmentStatus | None = None,
    *,
    waited_for: bool = True,
    answers: bool = True,
    given_up: str = "",
    hold: Hold | None = None,
) -> NodeProgress:
    """``status``: what the settled services are counted in."""
    assignment = standing.assignment
    if assignment is None:
        return NodeProgress(standing.view.name, phase, reason, 0, 0, 0, waited_for, answers, given_up, hold)
    settled = _count_settled(assignment, status) if status is not None else 0
    total = len(assignment.services)
    name = standing.view.name
    return NodeProgress(name, phase, reason, assignment.release, settled, total, waited_for, answers, given_up, hold)


def _given_up(standing: PlannedNode, status: pb.AssignmentStatus | None) -> str:
    """What the node says about a service that it has given up, other than those that it keeps; empty if none is."""
    for one in status.services if status is not None else ():
        if one.failed and one.name not in standing.kept:
            return describe_service(one, standing.view.name)
    return ""


def _problem(view: NodeView) -> str:
    """Why the node's agent cannot do its work at the moment; empty if it can."""
    problem = view.heartbeat.message.problem if view.heartbeat is not None and view.heartbeat.message else ""
    return f"the agent of {view.name} cannot work: {problem}" if problem else ""


def _unreadable(standing: PlannedNode) -> str:
    """What stored value about this node cannot be read; empty if all can."""
    view = standing.view
    for record in (view.node, view.heartbeat, view.status):
        if record is not None and record.error is not None:
            return f"{view.name}: {record.error}"
    # An assignment that cannot be read is written anew, unless the node is held.
    if standing.assignment is None and view.assignment is not None and view.assignment.error is not None:
        return f"{view.name}: {view.assignment.error}"
    return ""


def _unreachable(view: NodeView, *, needed: bool) -> str:
    """Why nobody answers for this node; empty if its agent does. It is ``needed`` for the release task."""
    if view.node is None or view.node.message is None:
        return f"{view.name} is attached but not registered; run devopsellence node register {view.name}, or detach it"
    if view.heartbeat is None or view.heartbeat.message is None:
        waits = "the release task waits for it" if needed else "it is not waited for"
        return f"{view.name} has no heartbeat: its agent is not running or cannot reach etcd; {waits}"
    if view.heartbeat.message.uid != view.node.message.uid:
        return f"the agent that answers as {view.name} was started for an earlier registration of that name"
    return ""


def _status_of(view: NodeView, assignment: pb.Assignment | None) -> pb.AssignmentStatus | None:
    """The status if it is about this very assignment, from the agent that it was meant for."""
    status = message_of(view.status)
    if status is None or assignment is None or status.node_uid != assignment.node_uid:
        return None
    # An agent that cannot read its assignment cannot say of which generation it is.
    unknown = status.phase == pb.AssignmentStatus.ERROR and status.generation == 0
    return status if unknown or status.generation == assignment.generation else None


def _count_settled(assignment: pb.Assignment, status: pb.AssignmentStatus) -> int:
    if status.phase == pb.AssignmentStatus.SETTLED:
        return len(assignment.services)
    assigned = {service.name for service in assignment.services}
    return sum(1 for service in status.services if service.name in assigned and is_settled(service))


def _why_unsettled(assignment: pb.Assignment, status: pb.AssignmentStatus, node: str) -> str:
    reported = {service.name: service for service in status.services}
    unsettled = [one for one in status.services if not is_settled(one)]
    # What has ended says more than what is still on its way, and that more than what waits for it.
    unsettled.sort(key=lambda one: (one.phase != _Service.BACKOFF, one.phase == _Service.PENDING))
    if unsettled:
        return describe_service(unsettled[0], node)
    for service in assignment.services:
        if service.name not in reported:
            return f'service "{service.name}" on {node} has not been started yet'
    return f"{node}: {status.reason or 'is being converged'}"
