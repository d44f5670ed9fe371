"""Assignment status of an environment, built from the plan. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from devopsellence.api.v1 import stored_pb2
from devopsellence.nodeagent.plan.actions import (
    TASK,
    Action,
    EnvironmentPlan,
    RestartHistories,
    ServicePlan,
)
from devopsellence.nodeagent.plan.history import NO_HISTORY
from devopsellence.nodeagent.plan.security import pending_defaults
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
    stops: Mapping[str, Action],
) -> _Status:
    """Build the status of an environment.

    ``progress``: progress of image pulls by service. ``problem``: reason why the assignment in etcd cannot be applied
    (``desired`` is the previous assignment then), else empty. ``ingress``: status of the ingress, None without an
    ingress; without influence on the phase. ``stops``: stops in progress by service.
    """
    services = [
        _service(desired, service, histories, progress.get(service.service, ""), stops.get(service.service))
        for service in planned.services
    ]
    phase, reason = _phase(desired, planned)
    if phase == _Status.SETTLED and (stopped := _being_stopped(services)) is not None:
        phase, reason = _Status.CONVERGING, f"{stopped.name}: {stopped.reason}"
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
        problem=planned.problem,
    )


def _being_stopped(services: Sequence[stored_pb2.ServiceStatus]) -> stored_pb2.ServiceStatus | None:
    """Return the first service whose container has had SIGTERM: it runs now, and not for long."""
    return next((service for service in services if service.phase == stored_pb2.ServiceStatus.STOPPING), None)


def with_folder_problem(status: _Status, planned: EnvironmentPlan, problem: str) -> _Status:
    """Return ``status`` while the agent cannot write its folder: what has not settled has failed for this reason."""
    settled = {service.service for service in planned.services if service.settled}
    unsettled = [service for service in status.services if service.name not in settled]
    if not problem or not unsettled or status.phase == _Status.ERROR:
        return status
    for service in unsettled:
        service.failed = True
        if problem not in service.reason:
            service.reason = f"{service.reason}; {problem}" if service.reason else problem
    status.phase, status.reason = _Status.FAILED, f"{unsettled[0].name}: {unsettled[0].reason}"
    return status


def unsaved(desired: Desired, problem: str, in_force: Desired | None, status: _Status | None) -> _Status:
    """Build the status of an assignment that the agent does not follow, because it cannot write it to disk.

    ``in_force``: the assignment followed instead, with its ``status``; None for none. What is the same in both is as
    reported there, also settled; everything else has failed.
    """
    after = _Status()
    if status is not None:
        after.CopyFrom(status)
    reported = {service.name: service for service in after.services}
    after.node, after.node_uid = desired.node, desired.node_uid
    ref = desired.ref
    after.organization, after.project, after.environment = ref.organization, ref.project, ref.environment
    after.generation, after.release = desired.generation, desired.release
    changed = _changed_services(desired, in_force)
    services = []
    for name in sorted({*desired.services, *reported}):
        service = reported.get(name) or stored_pb2.ServiceStatus(name=name, phase=stored_pb2.ServiceStatus.PENDING)
        if name in changed or name not in desired.services:
            service.failed, service.reason = True, problem
            service.ClearField("last_exit")
        services.append(service)
    failed = [service for service in services if service.failed]
    if failed or desired.removed or in_force is None:
        after.phase, after.reason = _Status.FAILED, f"{failed[0].name}: {failed[0].reason}" if failed else problem
    del after.services[:]
    after.services.extend(services)
    after.ClearField("task")
    if desired.task is not None:
        after.task.CopyFrom(
            stored_pb2.TaskStatus(
                name=desired.task.name,
                service=desired.task.service,
                release=desired.release,
                node=desired.node,
                phase=stored_pb2.TaskStatus.FAILED,
                reason=f"it has not been started: {problem}",
            )
        )
    if desired.ingress is None:
        after.ClearField("ingress")
    elif in_force is None or in_force.ingress != desired.ingress:
        after.ingress.phase, after.ingress.reason = stored_pb2.IngressStatus.FAILED, problem
    return after


def _changed_services(desired: Desired, in_force: Desired | None) -> set[str]:
    """Return the services that are not as in the assignment in force; all of them if its ingress differs."""
    if in_force is None or in_force.ingress != desired.ingress:
        return set(desired.services)
    return {
        name
        for name, service in desired.services.items()
        if name not in in_force.services or in_force.services[name].spec != service.spec
    }


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
    if planned.problem:
        return _Status.FAILED, planned.problem
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
    desired: Desired, planned: ServicePlan, histories: RestartHistories, progress: str, stop: Action | None
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
        waits_for_older=planned.waits_for_older,
        image_missing=history.lacks_image,
    )
    if assigned is not None:
        service.lasted = planned.lasted
    if stop is not None:
        _show_stop(
            service,
            stop,
            serves=current is not None and current.id == stop.container,
            older=assigned is not None and stop.hash != assigned.hash,
        )
    if current is not None:
        is_desired = assigned is not None and current.hash == assigned.hash
        service.container = current.id[:12]
        service.hash = current.hash
        service.release = current.release
        service.reused = is_desired and current.release < desired.release
        service.address = current.address_on(desired.network)
        service.image = (assigned.spec.image.reference if is_desired and assigned else "") or current.image
        if is_desired and assigned:
            service.pending.extend(pending_defaults(assigned.spec, current.settings))
        if current.started_at:
            service.started_at.FromJsonString(current.started_at)
    if planned.unhealthy_since:
        service.unhealthy_since.FromMilliseconds(round(planned.unhealthy_since * 1000))
    if planned.retry_wall:
        # Milliseconds are precise enough.
        service.next_attempt_at.FromMilliseconds(round(planned.retry_wall * 1000))
    if history.last_end is not None:
        service.last_exit.CopyFrom(exit_of(history.last_end))
    if (unhealthy := history.last_unhealthy) is not None:
        service.last_unhealthy.container = unhealthy.container[:12]
        service.last_unhealthy.reason = unhealthy.reason
        service.last_unhealthy.at.FromMilliseconds(round(unhealthy.at * 1000))
        service.last_unhealthy.log_lines.extend(unhealthy.log_lines)
    return service


def _show_stop(service: stored_pb2.ServiceStatus, stop: Action, *, serves: bool, older: bool) -> None:
    """Show a container that has had SIGTERM in the status.

    ``serves``: the status is about this container. ``older``: it is not of the assigned spec.
    """
    service.stopping = stop.container[:12]
    if serves:
        service.phase = stored_pb2.ServiceStatus.STOPPING
        # After a rollback: the container that is to run again has had SIGTERM as an older one.
        service.waits_for_older |= not (stop.unhealthy or stop.became_unhealthy)
    if older:
        sentence = f"the older container {stop.name} is stopping (it has had SIGTERM)"
        service.reason = f"{service.reason}; {sentence}" if service.reason else sentence
    elif not service.reason:
        service.reason = f"its container {stop.name} is stopping (it has had SIGTERM)"
