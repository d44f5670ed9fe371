"""Assignment status of an environment, built from the plan. Pure."""

from __future__ import annotations

from devopsellence.api.v1 import stored_pb2
from devopsellence.nodeagent.plan.actions import TASK, EnvironmentPlan, RestartHistories, ServicePlan
from devopsellence.nodeagent.plan.history import NO_HISTORY
from devopsellence.nodeagent.plan.spec import Desired
from devopsellence.nodeagent.plan.task_run import exit_of
from devopsellence.store.keys import EnvironmentRef

_Status = stored_pb2.AssignmentStatus


def status(
    desired: Desired,
    planned: EnvironmentPlan,
    histories: RestartHistories,
    progress: dict[str, str],
    problem: str,
    ingress: stored_pb2.IngressStatus | None,
) -> _Status:
    """Build the status of an environment.

    ``progress``: progress of image pulls by service. ``problem``: reason why the assignment in etcd cannot be applied
    (``desired`` is the previous assignment then), else empty. ``ingress``: status of the ingress, None without an
    ingress; without influence on the phase.
    """
    services = [
        _service(desired, service, histories, progress.get(service.service, "")) for service in planned.services
    ]
    phase, reason = _phase(desired, planned)
    if problem:
        phase, reason = _Status.ERROR, problem
    if phase in (_Status.SETTLED, _Status.REMOVED):
        reason = reason or planned.note
    return _Status(
        node=desired.node,
        organization=desired.ref.organization,
        project=desired.ref.project,
        environment=desired.ref.environment,
        generation=desired.generation,
        release=desired.release,
        phase=phase,
        reason=reason,
        services=services,
        node_uid=desired.node_uid,
        task=_task(planned.task.status, progress.get(TASK, "")),
        ingress=ingress,
    )


def _task(task: stored_pb2.TaskStatus | None, progress: str) -> stored_pb2.TaskStatus | None:
    if task is None or not progress:
        return task
    status = stored_pb2.TaskStatus()
    status.CopyFrom(task)
    status.reason = f"{task.reason}: {progress}"
    return status


def unreadable(node: str, node_uid: str, ref: EnvironmentRef, problem: str) -> _Status:
    """Build the status of an environment without any readable assignment so far."""
    return _Status(
        node=node,
        organization=ref.organization,
        project=ref.project,
        environment=ref.environment,
        phase=_Status.ERROR,
        reason=problem,
        node_uid=node_uid,
    )


def is_stable(planned: EnvironmentPlan) -> bool:
    """Return True if nothing changes without outside influence: worth reporting at once."""
    return planned.removed or all(service.settled or service.failed for service in planned.services)


def task_phase_changed(before: EnvironmentPlan, after: EnvironmentPlan) -> bool:
    """Return True if the release task has changed its phase: other nodes wait for that."""
    old, new = before.task.status, after.task.status
    return (old.phase if old is not None else None) != (new.phase if new is not None else None)


def _phase(desired: Desired, planned: EnvironmentPlan) -> tuple[stored_pb2.AssignmentStatus.Phase.ValueType, str]:
    if desired.removed:
        return (_Status.REMOVED, "") if planned.removed else (_Status.CONVERGING, _why(planned))
    if failed := [service for service in planned.services if service.failed]:
        return _Status.FAILED, _sentence(failed[0])
    if planned.reason or any(not service.settled for service in planned.services):
        return _Status.CONVERGING, _why(planned)
    return _Status.SETTLED, ""


def _why(planned: EnvironmentPlan) -> str:
    """Return the first reason among the unsettled services."""
    reasons = [_sentence(service) for service in planned.services if not service.settled and service.reason]
    return next(iter([planned.reason, *reasons] if planned.reason else reasons), "")


def _sentence(planned: ServicePlan) -> str:
    return f"{planned.service}: {planned.reason}" if planned.reason else planned.service


def _service(
    desired: Desired, planned: ServicePlan, histories: RestartHistories, progress: str
) -> stored_pb2.ServiceStatus:
    assigned = desired.services.get(planned.service)
    current = planned.current
    history = histories.get((planned.service, assigned.hash), NO_HISTORY) if assigned else NO_HISTORY
    pulling = planned.phase == stored_pb2.ServiceStatus.PULLING and progress
    service = stored_pb2.ServiceStatus(
        name=planned.service,
        phase=planned.phase,
        health=planned.health,
        reason=f"{planned.reason}: {progress}" if pulling else planned.reason,
        restarts=history.restarts,
        failed=planned.failed,
    )
    if current is not None:
        is_desired = assigned is not None and current.hash == assigned.hash
        service.container = current.id[:12]
        service.hash = current.hash
        service.release = current.release
        service.reused = is_desired and current.release < desired.release
        service.address = current.address_on(desired.network)
        service.image = (assigned.spec.image.reference if is_desired and assigned else "") or current.image
        if current.started_at:
            service.started_at.FromJsonString(current.started_at)
    if planned.unhealthy_since:
        service.unhealthy_since.FromMilliseconds(round(planned.unhealthy_since * 1000))
    if planned.retry_wall:
        # Milliseconds are precise enough.
        service.next_attempt_at.FromMilliseconds(round(planned.retry_wall * 1000))
    if history.last_end is not None:
        service.last_exit.CopyFrom(exit_of(history.last_end))
    return service
