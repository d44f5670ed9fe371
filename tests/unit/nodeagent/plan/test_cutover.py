"""Containers for requests, and stops that wait for draining."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest

from devopsellence.clock import Now
from devopsellence.nodeagent.docker.model import Container, ContainerState, Health, Network, Observed, ProbeVerdict
from devopsellence.nodeagent.plan.actions import RestartHistories
from devopsellence.nodeagent.plan.cutover import BEING_TAKEN_OUT, SERVES
from devopsellence.nodeagent.plan.environment import plan
from devopsellence.nodeagent.plan.history import NO_HISTORY, FailureCause
from devopsellence.nodeagent.plan.spec import Desired
from tests.unit.nodeagent.planning import (
    COMPLETED,
    ENV,
    STARTED,
    action_kinds,
    container,
    desired_of,
    desired_service,
    output_read,
    service,
)

NOW = Now(1000.0, 2_000_000.0)
NETWORK = Network("net-1", desired_of().network, str(ENV))
CHECKING, HEALTHY = Health(ProbeVerdict.CHECKING), Health(ProbeVerdict.HEALTHY)
UNHEALTHY = Health(ProbeVerdict.UNHEALTHY, message="answered 500")
OVERDUE = Health(ProbeVerdict.UNHEALTHY, past_start_deadline=True)

OLD, NEW, NEWER = (service(version=version, check=True) for version in "123")
A = container(OLD, identity="a", release=1)
B = container(NEW, identity="b", release=2)
C = container(NEWER, identity="c", release=3)
OLD_DB, NEW_DB = service("db", "1", volume=True), service("db", "2", volume=True)
A_DB, B_DB = container(OLD_DB, identity="a"), container(NEW_DB, ContainerState.CREATED, identity="b")
JOB = service("job")
BUSY = "3 requests are under way"


def proved(*containers: Container) -> RestartHistories:
    return {(container.service, container.hash): NO_HISTORY.running(container) for container in containers}


@dataclass(frozen=True)
class Row:
    """``serving``: ids. ``actions``: of all services."""

    says: str
    goal: Desired
    there: Sequence[Container]
    serving: Sequence[str]
    actions: Sequence[str]
    health: Mapping[str, Health] = field(default_factory=dict)
    memories: RestartHistories = field(default_factory=dict)
    held: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""


ROWS = [
    Row("first container gets no requests before it is healthy", desired_of(OLD), [A], [], [], {"a": CHECKING}),
    Row("first container gets requests once healthy", desired_of(OLD), [A], ["a"], [], {"a": HEALTHY}),
    Row("container without probes gets requests after a moment", desired_of(OLD_DB), [A_DB], ["a"], []),
    Row("container without probes gets no requests before that",
        desired_of(OLD_DB), [replace(A_DB, running_since=999.9)], [], []),
    Row("old container serves while the new one is probed", desired_of(NEW), [A, B], ["a"], [],
        {"b": CHECKING}, proved(A), {"a": SERVES}),
    Row("old container that was never healthy gets no requests", desired_of(NEW), [A, B], [], [], {"b": CHECKING}),
    Row("old container with requests keeps them without a restart history", desired_of(NEW), [A, B], ["a"], [],
        {"b": CHECKING}, {}, {"a": SERVES}),
    Row("middle version that was never healthy is removed", desired_of(NEWER), [A, B, C], ["a"],
        ["web:stop", "web:remove"], {"c": CHECKING}, proved(A), {"a": SERVES}),
    Row("healthy new container takes over while the old one drains", desired_of(NEW), [A, B], ["b"],
        [], {"b": HEALTHY}, proved(A), {"a": SERVES}, f"the old container {A.name} is not stopped yet: serves"),
    Row("draining is waited for", desired_of(NEW), [A, B], ["b"], [], {"b": HEALTHY}, proved(A, B),
        {"a": BUSY, "b": SERVES}, f"the old container {A.name} is not stopped yet: {BUSY}"),
    Row("old container is stopped after draining",
        desired_of(NEW), [A, B], ["b"], ["web:stop", "web:remove"], {"b": HEALTHY}, proved(A, B),
        {"b": SERVES}),
    Row("draining container does not hold back a third version", desired_of(NEWER), [A, B], ["b"],
        ["web:create", "web:start"], {}, proved(A, B), {"a": BUSY, "b": SERVES}),
    Row("requests stay in place after a restart of the agent", desired_of(OLD), [A], ["a"], [],
        {"a": CHECKING}, proved(A), {"a": SERVES}),
    Row("requests stay in place also after a failed probe", desired_of(OLD), [A], ["a"], [],
        {"a": replace(CHECKING, message="answered 500")}, {}, {"a": SERVES}),
    Row("restarted container gets no requests before it is healthy", desired_of(OLD), [A], [], [],
        {"a": CHECKING}, proved(A)),
    Row("container that became unhealthy is stopped despite requests", desired_of(OLD), [A], [],
        ["web:stop", "web:remove", "web:create", "web:start"], {"a": UNHEALTHY}, proved(A), {"a": SERVES}),
    Row("unhealthy container is the last resort during the backoff", desired_of(OLD), [replace(A, running_since=995.0)],
        ["a"], [], {"a": UNHEALTHY}, {("web", A.hash): replace(NO_HISTORY.running(A), lapses=1)}, {"a": SERVES}),
    Row("container that was never healthy is no last resort", desired_of(OLD), [replace(A, running_since=995.0)],
        [], [], {"a": UNHEALTHY}, {("web", A.hash): replace(NO_HISTORY, lapses=1)}),
    Row("unhealthy container is no last resort beside an older one",
        desired_of(NEW), [A, replace(B, running_since=995.0)], ["b"],
        [], {"b": UNHEALTHY}, {**proved(A), ("web", B.hash): replace(NO_HISTORY.running(B), lapses=1)},
        {"a": BUSY, "b": SERVES}, "not healthy: answered 500; is replaced again later"),
    Row("container past its start deadline is stopped without requests", desired_of(NEW), [A, B], ["a"], ["web:stop"],
        {"b": OVERDUE}, proved(A), {"a": SERVES}),
    Row("paused container gets no requests",
        desired_of(OLD), [replace(A, state=ContainerState.PAUSED)], [], [], {}, proved(A),
        {"a": SERVES}),
    Row("exited container gets no requests",
        desired_of(OLD), [replace(A, state=ContainerState.EXITED)], [], ["web:examine"], {},
        proved(A), {"a": BUSY}),
    Row("volumes: old container serves until the new one is created", desired_of(NEW_DB), [A_DB], ["a"],
        ["db:create"], {}, proved(A_DB), {"a": SERVES}),
    Row("volumes: old container drains then", desired_of(NEW_DB), [A_DB, B_DB], [], [], {}, proved(A_DB),
        {"a": SERVES}, f"the old container {A_DB.name} is not stopped yet: serves"),
    Row("volumes: old container is stopped after draining",
        desired_of(NEW_DB), [A_DB, B_DB], [], ["db:stop", "db:start"], {}, proved(A_DB)),
    Row("leaving service drains", desired_of(), [A], [], [], {}, proved(A), {"a": BUSY},
        f"the old container {A.name} is not stopped yet: {BUSY}"),
    Row("leaving environment drains", desired_of(removed=True), [A], [], [], {}, proved(A), {"a": BUSY},
        f"the old container {A.name} is not stopped yet: {BUSY}"),
    Row("dependency of a draining service waits", desired_of(removed=True),
        [container(service("app", after={"web": STARTED}), identity="app"), A], [], [], {}, {}, {"app": BUSY}),
    Row("completing service gets no requests", desired_of(service("app", after={"job": COMPLETED}), JOB),
        [container(JOB)], [], ["app:create"]),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=[row.says.replace(" ", "-") for row in ROWS])
def test_serving_containers_and_allowed_actions(row: Row) -> None:
    histories = output_read(row.there, row.memories)
    planned = plan(row.goal, Observed(tuple(row.there), NETWORK, row.health, row.held), histories, NOW)
    serving = [served.id for service_plan in planned.services for served in service_plan.serving]
    assert serving == row.serving
    assert action_kinds(planned.actions) == row.actions
    if row.reason:
        assert row.reason in [service_plan.reason for service_plan in planned.services]
    for service_plan in planned.services:
        assert not service_plan.settled or not row.held.keys() - {served.id for served in service_plan.serving}


def test_container_of_the_assigned_spec_has_its_hash() -> None:
    """Check the basis of the rows."""
    assert [running.hash for running in (A, B, C)] == [desired_service(spec).hash for spec in (OLD, NEW, NEWER)]


APP_AFTER_DB = service("app", after={"db": STARTED})
WAITS: list[tuple[str, Desired, Sequence[Container], dict[str, Health], dict[str, str], RestartHistories, set[str]]] = [
    ("nothing old is left", desired_of(NEW), [B], {"b": HEALTHY}, {}, {}, set()),
    ("the old container is to be stopped", desired_of(NEW), [A, B], {"b": HEALTHY}, {}, proved(A, B), {"web"}),
    ("requests of the old container are under way", desired_of(NEW), [A, B], {"b": HEALTHY}, {"a": BUSY}, proved(A, B),
        {"web"}),
    ("the router still sends requests to the old container", desired_of(NEW), [A, B], {"b": HEALTHY}, {"a": SERVES},
        proved(A, B), set()),
    ("the router has not confirmed to send requests elsewhere", desired_of(NEW), [A, B], {"b": HEALTHY},
        {"a": BEING_TAKEN_OUT}, proved(A, B), set()),
    ("a service that leaves is not taken out of service", desired_of(), [A], {}, {"a": BEING_TAKEN_OUT}, {}, set()),
    ("the new container is not ready", desired_of(NEW), [A, B], {"b": CHECKING}, {}, proved(A), set()),
    ("a version in between is stopped while the new one is not ready", desired_of(NEWER), [A, B, C], {"c": CHECKING},
        {}, proved(A), set()),
    ("a volume is in use by the old container", desired_of(NEW_DB), [A_DB, B_DB], {}, {}, {}, {"db"}),
    ("the new container with the volume starts", desired_of(NEW_DB),
        [replace(B_DB, state=ContainerState.RUNNING, running_since=999.9)], {}, {}, {}, set()),
    ("a dependency waits for its old container", desired_of(NEW_DB, APP_AFTER_DB), [A_DB, B_DB], {}, {}, {},
        {"app", "db"}),
    ("a dependency starts", desired_of(NEW, service("app", after={"web": STARTED})), [A, B], {"b": CHECKING}, {},
        proved(A), set()),
    ("a service leaves", desired_of(), [A], {}, {}, {}, {"web"}),
    ("a service that leaves has requests", desired_of(), [A], {}, {"a": BUSY}, {}, {"web"}),
    ("a service that leaves cannot be stopped", desired_of(), [A], {}, {},
        {("web", ""): NO_HISTORY.refused(FailureCause.REFUSED, "cannot be stopped", NOW, seed="x")}, set()),
    ("the old container cannot be stopped", desired_of(NEW), [A, B], {"b": HEALTHY}, {},
        {**proved(A, B), ("web", ""): NO_HISTORY.refused(FailureCause.REFUSED, "cannot be stopped", NOW, seed="x")},
        set()),
]  # fmt: skip


@pytest.mark.parametrize(
    ("goal", "there", "health", "held", "memories", "waiting"),
    [row[1:] for row in WAITS],
    ids=[row[0] for row in WAITS],
)
def test_service_waits_for_older_containers_only_if(
    goal: Desired,
    there: Sequence[Container],
    health: dict[str, Health],
    held: dict[str, str],
    memories: RestartHistories,
    waiting: set[str],
) -> None:
    planned = plan(goal, Observed(tuple(there), NETWORK, health, held), memories, NOW)
    assert {item.service for item in planned.services if item.waits_for_older} == waiting
