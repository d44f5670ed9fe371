"""What the agent saw, as the status that it writes. Pure."""

from __future__ import annotations

from devopsellence.api.v1 import stored_pb2
from devopsellence.nodeagent.docker.model import ContainerExit
from devopsellence.nodeagent.plan.actions import TASK, EnvironmentPlan, RestartHistories, ServicePlan
from devopsellence.nodeagent.plan.history import NO_HISTORY
from devopsellence.nodeagent.plan.spec import Desired
from devopsellence.store.keys import EnvironmentRef

_Status = stored_pb2.AssignmentStatus


def status(
    want: Desired,
    planned: EnvironmentPlan,
    memories: RestartHistories,
    progress: dict[str, str],
    problem: str,
    ingress: stored_pb2.IngressStatus | None,
) -> _Status:
    """The status of an environment. ``progress``: how far the pull of a service's image is. ``problem``: why the
    assignment in etcd cannot be followed (``want`` is then the one before), empty if it can. ``ingress``: how it fares,
    None if there is none; it has no part in the phase."""
    services = [_service(want, service, memories, progress.get(service.service, "")) for service in planned.services]
    phase, reason = _phase(want, planned)
    if problem:
        phase, reason = _Status.ERROR, problem
    return _Status(
        node=want.node,
        organization=want.env.organization,
        project=want.env.project,
        environment=want.env.environment,
        generation=want.generation,
        release=want.release,
        phase=phase,
        reason=reason,
        services=services,
        node_uid=want.node_uid,
        task=_task(planned.task.status, progress.get(TASK, "")),
        ingress=ingress,
    )


def _task(task: stored_pb2.TaskStatus | None, progress: str) -> stored_pb2.TaskStatus | None:
    if task is None or not progress:
        return task
    told = stored_pb2.TaskStatus()
    told.CopyFrom(task)
    told.reason = f"{task.reason}: {progress}"
    return told


def unreadable(node: str, node_uid: str, env: EnvironmentRef, problem: str) -> _Status:
    """The status of an environment of which no assignment could ever be read."""
    return _Status(
        node=node,
        organization=env.organization,
        project=env.project,
        environment=env.environment,
        phase=_Status.ERROR,
        reason=problem,
        node_uid=node_uid,
    )


def is_stable(planned: EnvironmentPlan) -> bool:
    """Nothing will change by itself: worth reporting at once."""
    return planned.removed or all(service.settled or service.failed for service in planned.services)


def task_phase_changed(before: EnvironmentPlan, after: EnvironmentPlan) -> bool:
    """The task is in another phase than it was: others wait for that."""
    old, new = before.task.status, after.task.status
    return (old.phase if old is not None else None) != (new.phase if new is not None else None)


def _phase(want: Desired, planned: EnvironmentPlan) -> tuple[stored_pb2.AssignmentStatus.Phase.ValueType, str]:
    if want.removed:
        return (_Status.REMOVED, "") if planned.removed else (_Status.CONVERGING, _why(planned))
    if failed := [service for service in planned.services if service.failed]:
        return _Status.FAILED, _sentence(failed[0])
    if planned.reason or any(not service.settled for service in planned.services):
        return _Status.CONVERGING, _why(planned)
    return _Status.SETTLED, ""


def _why(planned: EnvironmentPlan) -> str:
    """The first thing that is said about what is not settled yet."""
    said = [_sentence(service) for service in planned.services if not service.settled and service.reason]
    return next(iter([planned.reason, *said] if planned.reason else said), "")


def _sentence(planned: ServicePlan) -> str:
    return f"{planned.service}: {planned.reason}" if planned.reason else planned.service


def _service(
    want: Desired, planned: ServicePlan, memories: RestartHistories, progress: str
) -> stored_pb2.ServiceStatus:
    wanted = want.services.get(planned.service)
    current = planned.current
    memory = memories.get((planned.service, wanted.hash), NO_HISTORY) if wanted else NO_HISTORY
    pulling = planned.phase == stored_pb2.ServiceStatus.PULLING and progress
    service = stored_pb2.ServiceStatus(
        name=planned.service,
        phase=planned.phase,
        health=planned.health,
        reason=f"{planned.reason}: {progress}" if pulling else planned.reason,
        restarts=memory.restarts,
        failed=planned.failed,
    )
    if current is not None:
        mine = wanted is not None and current.hash == wanted.hash
        service.container = current.id[:12]
        service.hash = current.hash
        service.release = current.release
        service.reused = mine and current.release < want.release
        service.address = current.address_on(want.network)
        service.image = (wanted.service.image.reference if mine and wanted else "") or current.image
        if current.started_at:
            service.started_at.FromJsonString(current.started_at)
    if planned.unhealthy_since:
        service.unhealthy_since.FromMilliseconds(round(planned.unhealthy_since * 1000))
    if planned.retry_wall:
        # To the millisecond: nobody reads more.
        service.next_attempt_at.FromMilliseconds(round(planned.retry_wall * 1000))
    if memory.last_end is not None:
        service.last_exit.CopyFrom(exit_of(memory.last_end))
    return service


def exit_of(end: ContainerExit) -> stored_pb2.Exit:
    """How a container ended, as it is reported."""
    result = stored_pb2.Exit(code=end.code, oom_killed=end.oom_killed, log_lines=end.log_lines)
    if end.finished_at:
        result.finished_at.FromJsonString(end.finished_at)
    return result
