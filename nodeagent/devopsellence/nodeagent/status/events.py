"""Events about services: the difference between two statuses, as sentences. Pure.

Derived from reported statuses, not from actions: an event lost in a crash of the agent concerns a status never
reported, and no status produces the same event twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from devopsellence.api.v1.stored_pb2 import AssignmentStatus, Event, ServiceStatus

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


def events(before: AssignmentStatus | None, after: AssignmentStatus) -> list[Event]:
    """Return the events between two statuses of an environment, without ``at``. Empty without an earlier status,
    because then nothing can be recognized as new."""
    if before is None:
        return []
    known = {service.name: service for service in before.services}
    present = {service.name for service in after.services}
    result = [event for service in after.services for event in _of(known.get(service.name), service)]
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


def _of(before: ServiceStatus | None, after: ServiceStatus) -> Iterator[Event]:
    old = before or ServiceStatus()
    if after.failed and not old.failed:
        yield _event(after, Event.ERROR, SERVICE_FAILED, f"cannot run: {after.reason}")
    elif old.failed and not after.failed and old.hash == after.hash:
        yield _event(after, Event.INFO, SERVICE_RECOVERED, "runs again")
    if after.container and after.container != old.container:
        yield from _of_new_container(old, after)
    elif after.restarts > old.restarts and old.hash == after.hash:
        yield _event(after, Event.WARNING, SERVICE_RESTARTED, f"was restarted{_why(after)}")
    if after.container == old.container and after.health != old.health:
        if after.health == ServiceStatus.UNHEALTHY:
            yield _event(after, Event.WARNING, SERVICE_UNHEALTHY, f"is {after.reason or 'not healthy'}")
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
        cause = "it was unhealthy" if old.health == ServiceStatus.UNHEALTHY else "its container was gone"
        yield _event(after, Event.WARNING, SERVICE_RECREATED, f"was recreated, because {cause}")


def _why(service: ServiceStatus) -> str:
    if not service.HasField("last_exit"):
        return ""
    exit_ = service.last_exit
    cause = "it ran out of memory" if exit_.oom_killed else f"it exited with code {exit_.code}"
    return f" (restart {service.restarts}): {cause}"


def _event(service: ServiceStatus, severity: Event.Severity.ValueType, code: str, message: str) -> Event:
    return Event(severity=severity, code=code, message=f"{service.name} {message}", service=service.name)
