"""What the agent tells people about: the difference between two statuses, in sentences. Pure.

Worked out from what is reported, not from what was done: an event that is lost with a crash of the agent is one that
nobody saw, and no event is told twice for the same status.
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
    """What happened between two statuses of one environment; without ``at``. Nothing without an earlier one, because
    then nobody knows what is new."""
    if before is None:
        return []
    known = {service.name: service for service in before.services}
    left = {service.name for service in after.services}
    made = [event for service in after.services for event in _of(known.get(service.name), service)]
    made += [
        Event(severity=Event.INFO, code=SERVICE_REMOVED, message=f"{name} was removed", service=name)
        for name in sorted(known.keys() - left)
    ]
    for event in made:
        event.source = f"agent/{after.node}"
        event.node = after.node
        event.release = after.release
        event.message = f"{after.node}: {event.message}"
    return made


def with_last_container(before: AssignmentStatus | None, after: AssignmentStatus) -> AssignmentStatus:
    """``after``, to be compared with the next one: a service that runs nowhere at the moment is still known by the
    container that served last, so that the one which takes its place is told from a first one."""
    kept = AssignmentStatus()
    kept.CopyFrom(after)
    known = {service.name: service for service in before.services} if before is not None else {}
    for service in kept.services:
        last = known.get(service.name)
        if not service.container and last is not None:
            service.container, service.hash, service.release = last.container, last.hash, last.release
            service.health = last.health
    return kept


def _of(before: ServiceStatus | None, after: ServiceStatus) -> Iterator[Event]:
    old = before or ServiceStatus()
    if after.failed and not old.failed:
        yield _event(after, Event.ERROR, SERVICE_FAILED, f"cannot run: {after.reason}")
    elif old.failed and not after.failed and old.hash == after.hash:
        yield _event(after, Event.INFO, SERVICE_RECOVERED, "runs again")
    if after.container and after.container != old.container:
        yield from _of_another_container(old, after)
    elif after.restarts > old.restarts and old.hash == after.hash:
        yield _event(after, Event.WARNING, SERVICE_RESTARTED, f"was started again{_why(after)}")
    if after.container == old.container and after.health != old.health:
        if after.health == ServiceStatus.UNHEALTHY:
            yield _event(after, Event.WARNING, SERVICE_UNHEALTHY, f"is {after.reason or 'not healthy'}")
        elif after.health == ServiceStatus.HEALTHY and old.health == ServiceStatus.UNHEALTHY:
            yield _event(after, Event.INFO, SERVICE_HEALTHY, "is healthy again")
    if after.phase == ServiceStatus.COMPLETED and (old.phase, old.container) != (after.phase, after.container):
        yield _event(after, Event.INFO, SERVICE_COMPLETED, "has completed")


def _of_another_container(old: ServiceStatus, after: ServiceStatus) -> Iterator[Event]:
    if not old.hash:
        yield _event(after, Event.INFO, SERVICE_STARTED, f"was started, container {after.container}")
    elif old.hash != after.hash:
        message = f"container {after.container} of release {after.release} serves in place of release {old.release}'s"
        yield _event(after, Event.INFO, SERVICE_REPLACED, message)
    else:
        why = "it was not healthy" if old.health == ServiceStatus.UNHEALTHY else "its container was gone"
        yield _event(after, Event.WARNING, SERVICE_RECREATED, f"was made anew, because {why}")


def _why(service: ServiceStatus) -> str:
    if not service.HasField("last_exit"):
        return ""
    end = service.last_exit
    how = "it ran out of memory" if end.oom_killed else f"it had ended with exit code {end.code}"
    return f" (restart {service.restarts}): {how}"


def _event(service: ServiceStatus, severity: Event.Severity.ValueType, code: str, message: str) -> Event:
    return Event(severity=severity, code=code, message=f"{service.name} {message}", service=service.name)
