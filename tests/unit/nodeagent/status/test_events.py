"""Events from the difference between two statuses."""

from __future__ import annotations

from typing import Any

import pytest

from devopsellence.api.v1.stored_pb2 import AssignmentStatus, Event, Exit, ServiceStatus
from devopsellence.nodeagent.status.events import events, with_last_container

SERVES: dict[str, Any] = {
    "container": "c1", "hash": "h1", "release": 1, "phase": ServiceStatus.RUNNING, "health": ServiceStatus.HEALTHY,
}  # fmt: skip


def status(*services: ServiceStatus) -> AssignmentStatus:
    return AssignmentStatus(node="n1", release=2, services=services)


def web(**changes: Any) -> ServiceStatus:
    return ServiceStatus(name="web", **{**SERVES, **changes})


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([web()], [web()], []),
        ([], [web()], [("service_started", "n1: web was started, container c1")]),
        ([ServiceStatus(name="web")], [web()], [("service_started", "n1: web was started, container c1")]),
        (
            [web()],
            [web(container="c2", hash="h2", release=2)],
            [("service_replaced", "n1: web container c2 (release 2) replaced the container of release 1")],
        ),
        (
            [web()],
            [web(container="c2")],
            [("service_recreated", "n1: web was recreated, because its container was gone")],
        ),
        (
            [web()],
            [web(restarts=1, last_exit=Exit(code=7))],
            [("service_restarted", "n1: web was restarted (restart 1): it exited with code 7")],
        ),
        (
            [web()],
            [web(restarts=1, last_exit=Exit(code=137, oom_killed=True))],
            [("service_restarted", "n1: web was restarted (restart 1): it ran out of memory")],
        ),
        ([web()], [web(failed=True, reason="because")], [("service_failed", "n1: web cannot run: because")]),
        ([web(failed=True)], [web(failed=True)], []),
        ([web(failed=True)], [web()], [("service_recovered", "n1: web runs again")]),
        (
            [web()],
            [web(health=ServiceStatus.UNHEALTHY, reason="not healthy: refused")],
            [("service_unhealthy", "n1: web is not healthy: refused")],
        ),
        ([web(health=ServiceStatus.UNHEALTHY)], [web()], [("service_healthy", "n1: web is healthy again")]),
        (
            [web(health=ServiceStatus.UNHEALTHY)],
            [web(container="c2", health=ServiceStatus.CHECKING)],
            [("service_recreated", "n1: web was recreated, because it was unhealthy")],
        ),
        (
            [web(phase=ServiceStatus.STARTING)],
            [web(phase=ServiceStatus.COMPLETED)],
            [("service_completed", "n1: web has completed")],
        ),
        (
            [],
            [web(phase=ServiceStatus.COMPLETED)],
            [("service_started", "n1: web was started, container c1"), ("service_completed", "n1: web has completed")],
        ),
        ([web(phase=ServiceStatus.COMPLETED)], [web(phase=ServiceStatus.COMPLETED)], []),
        ([web()], [], [("service_removed", "n1: web was removed")]),
    ],
)
def test_status_changes_produce_events(
    before: list[ServiceStatus], after: list[ServiceStatus], expected: list[tuple[str, str]]
) -> None:
    result = events(status(*before), status(*after))
    assert [(event.code, event.message) for event in result] == expected
    for event in result:
        assert (event.source, event.node, event.service, event.release) == ("agent/n1", "n1", "web", 2)


def test_service_without_container_is_not_new_afterwards() -> None:
    first, nowhere, again = status(web()), status(ServiceStatus(name="web")), status(web(container="c2"))
    last = with_last_container(first, nowhere)
    assert events(first, nowhere) == []
    assert [event.code for event in events(last, again)] == ["service_recreated"]


def test_cause_of_recreation_survives_the_gap() -> None:
    sick, nowhere = status(web(health=ServiceStatus.UNHEALTHY)), status(ServiceStatus(name="web"))
    (event,) = events(with_last_container(sick, nowhere), status(web(container="c2")))
    assert event.message == "n1: web was recreated, because it was unhealthy"


def test_first_status_produces_no_events() -> None:
    assert events(None, status(web())) == []


def test_failure_is_an_error_and_restart_a_warning() -> None:
    (failed,) = events(status(web()), status(web(failed=True)))
    (restarted,) = events(status(web()), status(web(restarts=1)))
    assert (failed.severity, restarted.severity) == (Event.ERROR, Event.WARNING)
