"""Plan of the release task: its next action and its status.

A task is started at most once per release. Progress is known from the record on disk (``task_run``), written before the
request to the engine to start the container, and from the container; without either, nothing has happened yet. A task
recorded as started is never started again: if its container cannot tell the outcome, the task has failed. A task never
recorded as started can be tried again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from devopsellence.api.v1 import stored_pb2
from devopsellence.clock import Now
from devopsellence.nodeagent.docker.model import Container, ContainerState, Observed
from devopsellence.nodeagent.plan.actions import TASK, Action, ActionKind, RestartHistories, ServicePlan, TaskPlan
from devopsellence.nodeagent.plan.by_hand import settings_back
from devopsellence.nodeagent.plan.history import GIVE_UP, NO_HISTORY, FailureCause, RestartHistory
from devopsellence.nodeagent.plan.hung import hung_containers, without_hung
from devopsellence.nodeagent.plan.service_state import Cleanup, rank
from devopsellence.nodeagent.plan.spec import Desired, DesiredService
from devopsellence.nodeagent.plan.task_run import TaskRun, TaskRunKey, exit_of

_Status = stored_pb2.TaskStatus


@dataclass(frozen=True, slots=True)
class _Step:
    """Phase of the task, and the next action."""

    phase: stored_pb2.TaskStatus.Phase.ValueType
    reason: str = ""
    actions: tuple[Action, ...] = ()


def plan_task(
    desired: Desired,
    observed: Observed,
    services: Sequence[ServicePlan],
    runs: Mapping[TaskRunKey, TaskRun],
    histories: RestartHistories,
    now: Now,
    *,
    problem: str = "",
) -> TaskPlan:
    """Return the next actions for the containers of release tasks, and the status of the assigned task.

    ``services``: plans of the services. ``problem``: reason why ``runs`` cannot be read; empty if they can.
    """
    ours = [container for container in observed.containers if container.task]
    cleanup = Cleanup(TASK, histories, now)
    updates = tuple(_as_task(action) for action in settings_back(ours))
    if desired.removed:
        leaving = tuple(_as_task(action) for action in cleanup.of(ours, "the environment left this node"))
        return TaskPlan(without_hung(updates + leaving, observed.hung), wake=cleanup.wake)
    released = [container for container in ours if not container.one_off]
    current = max((container for container in released if _is_assigned(container, desired)), key=rank, default=None)
    others = [
        container
        for container in released
        if container is not current and (desired.task is not None or container.release != desired.release)
    ]
    leftovers = updates + _leftovers(others, runs, cleanup)
    if desired.task is None or desired.task_service is None:
        return TaskPlan(without_hung(leftovers, observed.hung), wake=cleanup.wake)
    key = (desired.release, desired.task.name, desired.task_service.hash)
    run = runs.get(key, TaskRun(*key))
    history = histories.get((TASK, desired.task_service.hash), NO_HISTORY)
    if problem:
        step = _Step(_Status.WAITING, problem)
    else:
        step = _next_step(desired.task_service, run, current, _waits_for(services, desired, others), history, now)
    if reason := hung_containers(released, observed.hung, now.mono).reason:
        step = replace(step, reason=reason)
    wakes = [cleanup.wake, history.retry if history.waits(now.mono) else None]
    return TaskPlan(
        # An old container can have the name of the new one.
        without_hung(leftovers + step.actions, observed.hung),
        _status(desired, run, current, step),
        wake=min((wake for wake in wakes if wake is not None), default=None),
    )


def _next_step(
    assigned: DesiredService, run: TaskRun, container: Container | None, waits: str, history: RestartHistory, now: Now
) -> _Step:
    if run.ended:
        return _Step(run.phase, run.reason)
    if history.failure is FailureCause.DISK_FULL and history.waits(now.mono):
        # Nothing can be kept on record, or made: not even that it has failed.
        return _Step(run.phase, history.reason)
    if run.container and (container is None or container.id != run.container):
        lost = Action(ActionKind.EXAMINE, "its container is gone", TASK, assigned.hash, run.container, assigned.name)
        return _Step(_Status.RUNNING, "its container is gone", (lost,))
    if container is not None and container.up:
        known = () if run.container else (_act(ActionKind.EXAMINE, "it runs already", container),)
        return _Step(_Status.RUNNING, "is paused" if container.state is ContainerState.PAUSED else "", known)
    if container is not None and (run.container or container.state in (ContainerState.EXITED, ContainerState.DEAD)):
        # Recorded as started, and the engine does not know of it: either that is under way, or it was cut off.
        reason = "is being started" if container.state is ContainerState.CREATED else "has ended"
        return _Step(_Status.RUNNING, reason, (_act(ActionKind.EXAMINE, f"it {reason}", container),))
    return _unstarted(assigned, container, waits, history, now)


def _unstarted(
    assigned: DesiredService, container: Container | None, waits: str, history: RestartHistory, now: Now
) -> _Step:
    """Return the step for a task that was never started."""
    if assigned.problem or history.refusals >= GIVE_UP:
        reason = assigned.problem or history.reason
        give_up = Action(
            ActionKind.GIVE_UP, reason, TASK, assigned.hash, container.id if container else "", assigned.name
        )
        return _Step(_Status.WAITING, reason, (give_up,))
    if waits:
        return _Step(_Status.WAITING, waits)
    if history.waits(now.mono):
        return _Step(_Status.WAITING, history.reason)
    if container is not None and container.state is ContainerState.REMOVING:
        return _Step(_Status.WAITING, "its container is being removed")
    if container is not None:
        return _Step(
            _Status.WAITING,
            history.reason,
            (_act(ActionKind.START, "all services that it needs are ready", container),),
        )
    create = Action(ActionKind.CREATE, "all services that it needs are ready", TASK, assigned.hash, "", assigned.name)
    if history.image_missing and assigned.can_pull:
        pull = Action(ActionKind.PULL, "its image is not on this machine", TASK, assigned.hash, "", assigned.name)
        return _Step(_Status.WAITING, assigned.pull_message, (pull, create))
    return _Step(_Status.WAITING, "", (create,))


def _waits_for(services: Sequence[ServicePlan], desired: Desired, others: Sequence[Container]) -> str:
    """Return a sentence about what the task waits for; empty if nothing. Tasks of two releases never run at once."""
    for service in services:
        assigned = desired.services.get(service.service)
        if assigned is not None and not assigned.spec.image.app and not service.settled:
            return (
                f"waits for {service.service}: {service.reason}" if service.reason else f"waits for {service.service}"
            )
    running = next((container for container in sorted(others, key=rank) if container.up), None)
    return f"waits for task {running.task} of release {running.release} to end" if running is not None else ""


def _leftovers(others: Sequence[Container], runs: Mapping[TaskRunKey, TaskRun], cleanup: Cleanup) -> tuple[Action, ...]:
    """Return the actions for exited containers of other releases' tasks.

    A running container is left to end by itself; its outcome is recorded before its removal.
    """
    ended = [container for container in others if not container.up]
    for container in sorted(ended, key=rank):
        run = runs.get((container.release, container.task, container.hash))
        if run is not None and run.container == container.id and not run.ended:
            return (_act(ActionKind.EXAMINE, "it has ended", container),)
    return tuple(_as_task(action) for action in cleanup.of(ended, "the task of another release has ended"))


def _is_assigned(container: Container, desired: Desired) -> bool:
    task, assigned = desired.task, desired.task_service
    if task is None or assigned is None:
        return False
    return (container.release, container.task, container.hash) == (desired.release, task.name, assigned.hash)


def _act(kind: ActionKind, reason: str, container: Container) -> Action:
    return Action(kind, reason, TASK, container.hash, container.id, container.name)


def _as_task(action: Action) -> Action:
    return replace(action, service=TASK)


def _status(desired: Desired, run: TaskRun, container: Container | None, step: _Step) -> stored_pb2.TaskStatus:
    task = desired.task
    status = _Status(
        name=task.name if task else "",
        service=task.service if task else "",
        release=desired.release,
        node=desired.node,
        phase=step.phase,
        reason=step.reason,
    )
    started = run.started_at or (
        container.started_at if container is not None and step.phase == _Status.RUNNING else ""
    )
    if started:
        status.started_at.FromJsonString(started)
    if run.end is not None:
        status.exit.CopyFrom(exit_of(run.end))
        if status.exit.HasField("finished_at"):
            # Docker notes the start of a container after it, and may note the end of a very short one before.
            late = status.exit.finished_at.ToNanoseconds() < status.started_at.ToNanoseconds()
            status.finished_at.CopyFrom(status.started_at if late else status.exit.finished_at)
    return status
