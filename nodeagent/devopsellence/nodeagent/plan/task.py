"""What to do next about the release's task. Pure, like :mod:`plan`.

A task is started at most once for a release. Three things tell how far it is: the record on disk (``task_record``),
written before the engine is asked to start the container; the container; and, where both are silent, that nothing has
happened yet. What is recorded as started is never started again: if its container cannot tell how it ended, it has
failed. What was never recorded as started may be tried again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from devopsellence.api.v1 import stored_pb2
from devopsellence.clock import Now
from devopsellence.nodeagent.docker.model import Container, ContainerState, Observed
from devopsellence.nodeagent.plan.actions import TASK, Action, ActionKind, RestartHistories, ServicePlan, TaskPlan
from devopsellence.nodeagent.plan.history import GIVE_UP, NO_HISTORY, FailureCause, RestartHistory
from devopsellence.nodeagent.plan.service_state import Cleanup, rank
from devopsellence.nodeagent.plan.spec import Desired, DesiredService
from devopsellence.nodeagent.plan.task_run import TaskRun, TaskRunKey, exit_of

_Status = stored_pb2.TaskStatus


@dataclass(frozen=True, slots=True)
class _Step:
    """How the task stands, and the next action that it needs."""

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
    """The next actions for the containers of release tasks, and how the one that is assigned fares. ``services``: how
    the services stand. ``problem``: why ``runs`` could not be read; empty if it could."""
    ours = [container for container in observed.containers if container.task]
    cleanup = Cleanup(TASK, histories, now)
    if desired.removed:
        leaving = tuple(_as_task(each) for each in cleanup.of(ours, "the environment left this node"))
        return TaskPlan(leaving, wake=cleanup.wake)
    released = [each for each in ours if not each.one_off]
    container = max((each for each in released if _is_assigned(each, desired)), key=rank, default=None)
    others = [
        each
        for each in released
        if each is not container and (desired.task is not None or each.release != desired.release)
    ]
    leftovers = _leftovers(others, runs, cleanup)
    if desired.task is None or desired.task_service is None:
        return TaskPlan(leftovers, wake=cleanup.wake)
    key = (desired.release, desired.task.name, desired.task_service.hash)
    run = runs.get(key, TaskRun(*key))
    history = histories.get((TASK, desired.task_service.hash), NO_HISTORY)
    if problem:
        step = _Step(_Status.WAITING, problem)
    else:
        step = _step(desired.task_service, run, container, _held_up(services, desired, others), history, now)
    wakes = [cleanup.wake, history.retry if history.waits(now.mono) else None]
    return TaskPlan(
        # What is left over may have the name of what is to be made.
        leftovers + step.actions,
        _status(desired, run, container, step),
        wake=min((wake for wake in wakes if wake is not None), default=None),
    )


def _step(
    assigned: DesiredService, run: TaskRun, container: Container | None, held_up: str, history: RestartHistory, now: Now
) -> _Step:
    if run.ended:
        return _Step(run.phase, run.reason)
    if history.trouble is FailureCause.DISK_FULL and history.waits(now.mono):
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
    return _unstarted(assigned, container, held_up, history, now)


def _unstarted(
    assigned: DesiredService, container: Container | None, held_up: str, history: RestartHistory, now: Now
) -> _Step:
    """Nothing was ever started: what can be tried may be tried again."""
    if assigned.problem or history.refusals >= GIVE_UP:
        reason = assigned.problem or history.reason
        give_up = Action(
            ActionKind.GIVE_UP, reason, TASK, assigned.hash, container.id if container else "", assigned.name
        )
        return _Step(_Status.WAITING, reason, (give_up,))
    if held_up:
        return _Step(_Status.WAITING, held_up)
    if history.waits(now.mono):
        return _Step(_Status.WAITING, history.reason)
    if container is not None and container.state is ContainerState.REMOVING:
        return _Step(_Status.WAITING, "its container is being removed")
    if container is not None:
        return _Step(
            _Status.WAITING, history.reason, (_act(ActionKind.START, "everything that it needs is ready", container),)
        )
    create = Action(ActionKind.CREATE, "everything that it needs is ready", TASK, assigned.hash, "", assigned.name)
    if history.image_missing and assigned.obtainable:
        pull = Action(ActionKind.PULL, "its image is not on this machine", TASK, assigned.hash, "", assigned.name)
        return _Step(_Status.WAITING, assigned.obtaining, (pull, create))
    return _Step(_Status.WAITING, "", (create,))


def _held_up(services: Sequence[ServicePlan], desired: Desired, others: Sequence[Container]) -> str:
    """What the task waits for; empty if nothing. Tasks of two releases never run at once."""
    for service in services:
        assigned = desired.services.get(service.service)
        if assigned is not None and not assigned.spec.image.app and not service.settled:
            return (
                f"waits for {service.service}: {service.reason}" if service.reason else f"waits for {service.service}"
            )
    running = next((each for each in sorted(others, key=rank) if each.up), None)
    return f"waits for task {running.task} of release {running.release} to end" if running is not None else ""


def _leftovers(others: Sequence[Container], runs: Mapping[TaskRunKey, TaskRun], cleanup: Cleanup) -> tuple[Action, ...]:
    """What tasks of other releases have left; one that runs is let end, and how it ended goes on record first."""
    ended = [each for each in others if not each.up]
    for each in sorted(ended, key=rank):
        run = runs.get((each.release, each.task, each.hash))
        if run is not None and run.container == each.id and not run.ended:
            return (_act(ActionKind.EXAMINE, "it has ended", each),)
    return tuple(_as_task(each) for each in cleanup.of(ended, "the task of another release has ended"))


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
