"""Events from the difference between two statuses."""

from __future__ import annotations

from typing import Any

import pytest

from devopsellence.api.v1.stored_pb2 import (
    AssignmentStatus,
    Event,
    Exit,
    IngressStatus,
    ServiceStatus,
    UnhealthyContainer,
)
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
            [("service_restarted", "n1: web was restarted (restart 1) after exit code 7")],
        ),
        (
            [web()],
            [web(restarts=1, last_exit=Exit(code=137, oom_killed=True))],
            [("service_restarted", "n1: web was restarted (restart 1) after exit code 137, out of memory")],
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


FAILED_INGRESS = {"ingress": IngressStatus(phase=IngressStatus.FAILED, reason="port 80 is taken")}
SERVED_INGRESS = {"ingress": IngressStatus(phase=IngressStatus.SERVING)}
REJECTED = {"phase": AssignmentStatus.ERROR, "reason": "it is damaged"}
BLOCKED = {"phase": AssignmentStatus.FAILED, "problem": "no network", "reason": "no network"}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (None, {}, []),
        (None, BLOCKED, [("environment_blocked", "n1: no service can be started: no network")]),
        ({}, BLOCKED, [("environment_blocked", "n1: no service can be started: no network")]),
        (BLOCKED, BLOCKED, []),
        (BLOCKED, {}, [("environment_unblocked", "n1: services can be started again")]),
        (
            {},
            REJECTED,
            [
                (
                    "assignment_rejected",
                    "n1: the assignment cannot be applied, and the containers keep running: it is damaged",
                )
            ],
        ),
        (REJECTED, REJECTED, []),
        ({}, FAILED_INGRESS, [("ingress_failed", "n1: the ingress is not served: port 80 is taken")]),
        (FAILED_INGRESS, FAILED_INGRESS, []),
        (FAILED_INGRESS, SERVED_INGRESS, [("ingress_serving", "n1: the ingress is served again")]),
        ({}, SERVED_INGRESS, []),
    ],
)
def test_problems_of_the_whole_environment_produce_events(
    before: dict[str, Any] | None, after: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    result = events(None if before is None else AssignmentStatus(**before), AssignmentStatus(node="n1", **after))
    assert [(event.code, event.message) for event in result] == expected


ENDED = Exit(code=3, log_lines=["cannot bind"])
UNHEALTHY = UnhealthyContainer(reason="not healthy", log_lines=["no database"])
UNHEALTHY.at.FromSeconds(100)


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [
        (web(), web(failed=True, last_exit=ENDED), ["cannot bind"]),
        (web(), web(failed=True, last_exit=ENDED, last_unhealthy=UNHEALTHY), ["no database"]),
        (web(), web(restarts=1, last_exit=ENDED), ["cannot bind"]),
        (web(), web(health=ServiceStatus.UNHEALTHY, last_unhealthy=UNHEALTHY), ["no database"]),
        (
            web(health=ServiceStatus.UNHEALTHY),
            web(container="c2", health=ServiceStatus.CHECKING, last_unhealthy=UNHEALTHY),
            ["no database"],
        ),
        (web(), web(container="c2"), []),
    ],
)
def test_events_about_a_failure_have_the_last_output(
    before: ServiceStatus, after: ServiceStatus, lines: list[str]
) -> None:
    (event,) = events(status(before), status(after))
    assert list(event.log_lines) == lines


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
