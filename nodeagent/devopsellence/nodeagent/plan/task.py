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
from devopsellence.nodeagent.plan.history import GIVE_UP, NO_HISTORY, RestartHistory, FailureCause
from devopsellence.nodeagent.plan.service_state import Cleanup, rank
from devopsellence.nodeagent.plan.spec import Desired, DesiredService
from devopsellence.nodeagent.plan.task_run import TaskRun, TaskRunKey
from devopsellence.nodeagent.status.build import exit_of

_Status = stored_pb2.TaskStatus


@dataclass(frozen=True, slots=True)
class _Step:
    """How the task stands, and the next action that it needs."""

    phase: stored_pb2.TaskStatus.Phase.ValueType
    reason: str = ""
    actions: tuple[Action, ...] = ()


def plan_task(
    want: Desired,
    seen: Observed,
    services: Sequence[ServicePlan],
    runs: Mapping[TaskRunKey, TaskRun],
    memories: RestartHistories,
    now: Now,
    *,
    problem: str = "",
) -> TaskPlan:
    """The next actions for the containers of release tasks, and how the one that is assigned fares. ``services``: how
    the services stand. ``problem``: why ``runs`` could not be read; empty if it could."""
    ours = [container for container in seen.containers if container.task]
    cleanup = Cleanup(TASK, memories, now)
    if want.removed:
        leaving = tuple(_as_task(each) for each in cleanup.of(ours, "the environment left this node"))
        return TaskPlan(leaving, wake=cleanup.wake)
    released = [each for each in ours if not each.one_off]
    mine = max((each for each in released if _is_assigned(each, want)), key=rank, default=None)
    others = [each for each in released if each is not mine and (want.task is not None or each.release != want.release)]
    leftovers = _leftovers(others, runs, cleanup)
    if want.task is None or want.task_wanted is None:
        return TaskPlan(leftovers, wake=cleanup.wake)
    key = (want.release, want.task.name, want.task_wanted.hash)
    run = runs.get(key, TaskRun(*key))
    memory = memories.get((TASK, want.task_wanted.hash), NO_HISTORY)
    if problem:
        step = _Step(_Status.WAITING, problem)
    else:
        step = _step(want.task_wanted, run, mine, _held_up(services, want, others), memory, now)
    wakes = [cleanup.wake, memory.retry if memory.waits(now.mono) else None]
    return TaskPlan(
        # What is left over may have the name of what is to be made.
        leftovers + step.actions,
        _status(want, run, mine, step),
        wake=min((wake for wake in wakes if wake is not None), default=None),
    )


def _step(wanted: DesiredService, run: TaskRun, mine: Container | None, held_up: str, memory: RestartHistory, now: Now) -> _Step:
    if run.ended:
        return _Step(run.phase, run.reason)
    if memory.trouble is FailureCause.DISK_FULL and memory.waits(now.mono):
        # Nothing can be kept on record, or made: not even that it has failed.
        return _Step(run.phase, memory.reason)
    if run.container and (mine is None or mine.id != run.container):
        lost = Action(ActionKind.EXAMINE, "its container is gone", TASK, wanted.hash, run.container, wanted.name)
        return _Step(_Status.RUNNING, "its container is gone", (lost,))
    if mine is not None and mine.up:
        known = () if run.container else (_act(ActionKind.EXAMINE, "it runs already", mine),)
        return _Step(_Status.RUNNING, "is paused" if mine.state is ContainerState.PAUSED else "", known)
    if mine is not None and (run.container or mine.state in (ContainerState.EXITED, ContainerState.DEAD)):
        # Recorded as started, and the engine does not know of it: either that is under way, or it was cut off.
        reason = "is being started" if mine.state is ContainerState.CREATED else "has ended"
        return _Step(_Status.RUNNING, reason, (_act(ActionKind.EXAMINE, f"it {reason}", mine),))
    return _unstarted(wanted, mine, held_up, memory, now)


def _unstarted(wanted: DesiredService, mine: Container | None, held_up: str, memory: RestartHistory, now: Now) -> _Step:
    """Nothing was ever started: what can be tried may be tried again."""
    if wanted.obstacle or memory.refusals >= GIVE_UP:
        reason = wanted.obstacle or memory.reason
        give_up = Action(ActionKind.GIVE_UP, reason, TASK, wanted.hash, mine.id if mine else "", wanted.name)
        return _Step(_Status.WAITING, reason, (give_up,))
    if held_up:
        return _Step(_Status.WAITING, held_up)
    if memory.waits(now.mono):
        return _Step(_Status.WAITING, memory.reason)
    if mine is not None and mine.state is ContainerState.REMOVING:
        return _Step(_Status.WAITING, "its container is being removed")
    if mine is not None:
        return _Step(
            _Status.WAITING, memory.reason, (_act(ActionKind.START, "everything that it needs is ready", mine),)
        )
    create = Action(ActionKind.CREATE, "everything that it needs is ready", TASK, wanted.hash, "", wanted.name)
    if memory.image_missing and wanted.obtainable:
        pull = Action(ActionKind.PULL, "its image is not on this machine", TASK, wanted.hash, "", wanted.name)
        return _Step(_Status.WAITING, wanted.obtaining, (pull, create))
    return _Step(_Status.WAITING, "", (create,))


def _held_up(services: Sequence[ServicePlan], want: Desired, others: Sequence[Container]) -> str:
    """What the task waits for; empty if nothing. Tasks of two releases never run at once."""
    for service in services:
        wanted = want.services.get(service.service)
        if wanted is not None and not wanted.service.image.app and not service.settled:
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


def _is_assigned(container: Container, want: Desired) -> bool:
    task, wanted = want.task, want.task_wanted
    if task is None or wanted is None:
        return False
    return (container.release, container.task, container.hash) == (want.release, task.name, wanted.hash)


def _act(kind: ActionKind, reason: str, container: Container) -> Action:
    return Action(kind, reason, TASK, container.hash, container.id, container.name)


def _as_task(action: Action) -> Action:
    return replace(action, service=TASK)


def _status(want: Desired, run: TaskRun, mine: Container | None, step: _Step) -> stored_pb2.TaskStatus:
    task = want.task
    status = _Status(
        name=task.name if task else "",
        service=task.service if task else "",
        release=want.release,
        node=want.node,
        phase=step.phase,
        reason=step.reason,
    )
    started = run.started_at or (mine.started_at if mine is not None and step.phase == _Status.RUNNING else "")
    if started:
        status.started_at.FromJsonString(started)
    if run.end is not None:
        status.exit.CopyFrom(exit_of(run.end))
        if status.exit.HasField("finished_at"):
            # Docker notes the start of a container after it, and may note the end of a very short one before.
            late = status.exit.finished_at.ToNanoseconds() < status.started_at.ToNanoseconds()
            status.finished_at.CopyFrom(status.started_at if late else status.exit.finished_at)
    return status
