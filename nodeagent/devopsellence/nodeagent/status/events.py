"""Events about services and their environment: the difference between two statuses, as sentences. Pure.

Derived from reported statuses, not from actions: an event lost in a crash of the agent concerns a status never
reported, and no status produces the same event twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from devopsellence.api.v1.stored_pb2 import AssignmentStatus, Event, IngressStatus, ServiceStatus
from devopsellence.exits import describe_exit, last_output

SERVICE_STARTED: Final = "service_started"
SERVICE_REPLACED: Final = "service_replaced"
SERVICE_RECREATED: Final = "service_recreated"
SERVICE_RESTARTED: Final = "service_restarted"
SERVICE_FAILED: Final = "service_failed"
SERVICE_RECOVERED: Final = "service_recovered"
SERVICE_UNHEALTHY: Final = "service_unhealthy"
SERVICE_HEALTHY: Final = "service_healthy"
SERVICE_COMPLETED: Final = "service_completed"
SERVICE_REMOVED: Final = "service_removed"
#: Nothing of the environment can start on the node, or can again.
ENVIRONMENT_BLOCKED: Final = "environment_blocked"
ENVIRONMENT_UNBLOCKED: Final = "environment_unblocked"
#: The assignment in etcd cannot be applied; the containers keep running.
ASSIGNMENT_REJECTED: Final = "assignment_rejected"
INGRESS_FAILED: Final = "ingress_failed"
INGRESS_SERVING: Final = "ingress_serving"


def events(before: AssignmentStatus | None, after: AssignmentStatus) -> list[Event]:
    """Return the events between two statuses of an environment, without ``at``. Without an earlier status only those
    about problems of the whole environment, because no service can be recognized as new."""
    result = list(_of_environment(before or AssignmentStatus(), after))
    if before is not None:
        known = {service.name: service for service in before.services}
        present = {service.name for service in after.services}
        result += [event for service in after.services for event in _of(known.get(service.name), service)]
        result += [
            Event(severity=Event.INFO, code=SERVICE_REMOVED, message=f"{name} was removed", service=name)
            for name in sorted(known.keys() - present)
        ]
    for event in result:
        event.source = f"agent/{after.node}"
        event.node = after.node
        event.release = after.release
        event.message = f"{after.node}: {event.message}"
    return result


def with_last_container(before: AssignmentStatus | None, after: AssignmentStatus) -> AssignmentStatus:
    """Return ``after`` for comparison with the next status: a service without a container keeps its last container, so
    that a replacement is not mistaken for a first start."""
    result = AssignmentStatus()
    result.CopyFrom(after)
    known = {service.name: service for service in before.services} if before is not None else {}
    for service in result.services:
        last = known.get(service.name)
        if not service.container and last is not None:
            service.container, service.hash, service.release = last.container, last.hash, last.release
            service.health = last.health
    return result


def _of_environment(old: AssignmentStatus, after: AssignmentStatus) -> Iterator[Event]:
    if after.problem and after.problem != old.problem:
        message = f"no service can be started: {after.problem}"
        yield Event(severity=Event.ERROR, code=ENVIRONMENT_BLOCKED, message=message)
    elif old.problem and not after.problem:
        yield Event(severity=Event.INFO, code=ENVIRONMENT_UNBLOCKED, message="services can be started again")
    rejected = after.phase == AssignmentStatus.ERROR
    if rejected and (old.phase, old.reason) != (after.phase, after.reason):
        message = f"the assignment cannot be applied, and the containers keep running: {after.reason}"
        yield Event(severity=Event.ERROR, code=ASSIGNMENT_REJECTED, message=message)
    yield from _of_ingress(old.ingress, after.ingress)


def _of_ingress(old: IngressStatus, after: IngressStatus) -> Iterator[Event]:
    failed = after.phase == IngressStatus.FAILED
    if failed and (old.phase, old.reason) != (after.phase, after.reason):
        message = f"the ingress is not served: {after.reason}"
        yield Event(severity=Event.WARNING, code=INGRESS_FAILED, message=message)
    elif old.phase == IngressStatus.FAILED and after.phase == IngressStatus.SERVING:
        yield Event(severity=Event.INFO, code=INGRESS_SERVING, message="the ingress is served again")


def _of(before: ServiceStatus | None, after: ServiceStatus) -> Iterator[Event]:
    old = before or ServiceStatus()
    if after.failed and not old.failed:
        yield _event(after, Event.ERROR, SERVICE_FAILED, f"cannot run: {after.reason}", last_output(after))
    elif old.failed and not after.failed and old.hash == after.hash:
        yield _event(after, Event.INFO, SERVICE_RECOVERED, "runs again")
    if after.container and after.container != old.container:
        yield from _of_new_container(old, after)
    elif after.restarts > old.restarts and old.hash == after.hash:
        output = after.last_exit.log_lines
        yield _event(after, Event.WARNING, SERVICE_RESTARTED, f"was restarted{_why(after)}", output)
    if after.container == old.container and after.health != old.health:
        if after.health == ServiceStatus.UNHEALTHY:
            message = f"is {after.reason or 'not healthy'}"
            yield _event(after, Event.WARNING, SERVICE_UNHEALTHY, message, after.last_unhealthy.log_lines)
        elif after.health == ServiceStatus.HEALTHY and old.health == ServiceStatus.UNHEALTHY:
            yield _event(after, Event.INFO, SERVICE_HEALTHY, "is healthy again")
    if after.phase == ServiceStatus.COMPLETED and (old.phase, old.container) != (after.phase, after.container):
        yield _event(after, Event.INFO, SERVICE_COMPLETED, "has completed")


def _of_new_container(old: ServiceStatus, after: ServiceStatus) -> Iterator[Event]:
    if not old.hash:
        yield _event(after, Event.INFO, SERVICE_STARTED, f"was started, container {after.container}")
    elif old.hash != after.hash:
        message = (
            f"container {after.container} (release {after.release}) replaced the container of release {old.release}"
        )
        yield _event(after, Event.INFO, SERVICE_REPLACED, message)
    else:
        unhealthy = old.health == ServiceStatus.UNHEALTHY
        cause = "it was unhealthy" if unhealthy else "its container was gone"
        output = after.last_unhealthy.log_lines if unhealthy else ()
        yield _event(after, Event.WARNING, SERVICE_RECREATED, f"was recreated, because {cause}", output)


def _why(service: ServiceStatus) -> str:
    if not service.HasField("last_exit"):
        return ""
    exit_ = service.last_exit
    return f" (restart {service.restarts}) after {describe_exit(exit_.code, oom_killed=exit_.oom_killed)}"


def _event(
    service: ServiceStatus,
    severity: Event.Severity.ValueType,
    code: str,
    message: str,
    log_lines: Sequence[str] = (),
) -> Event:
    text = f"{service.name} {message}"
    return Event(severity=severity, code=code, message=text, service=service.name, log_lines=log_lines)
