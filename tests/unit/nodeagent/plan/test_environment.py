"""The plan, case by case: what is there, what is assigned, what is to be done, how it stands meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from devopsellence.api.v1 import stored_pb2, workload_pb2
from devopsellence.clock import Now
from devopsellence.nodeagent.docker.model import (
    Container,
    ContainerExit,
    ContainerState,
    Health,
    Network,
    NetworkAttachment,
    Observed,
    ProbeVerdict,
)
from devopsellence.nodeagent.plan.environment import plan
from devopsellence.nodeagent.plan.history import NO_HISTORY, FailureCause, RestartHistory
from devopsellence.nodeagent.plan.spec import Desired
from devopsellence.nodeagent.status import build
from tests.unit.nodeagent.planning import (
    COMPLETED,
    ENV,
    REMOTE,
    action_kinds,
    container,
    desired_of,
    desired_service,
    output_read,
    service,
)

S = stored_pb2.ServiceStatus
OLD, NEW = service(version="1"), service(version="2")
OLD_WEB, NEW_WEB = service(version="1", check=True), service(version="2", check=True)
OLD_DB, NEW_DB = service(version="1", volume=True), service(version="2", volume=True)
NETWORK = Network("net-1", desired_of().network, str(ENV))
NOW = Now(1000.0, 2000.0)
JUST = 999.9
HEALTHY = Health(ProbeVerdict.HEALTHY)
UNHEALTHY = Health(ProbeVerdict.UNHEALTHY, message="answered 500", since=Now(990.0, 1990.0))


@dataclass(frozen=True)
class Row:
    says: str
    goal: Desired
    there: Sequence[Container]
    todo: list[str]
    phase: int = S.RUNNING
    settled: bool = False
    failed: bool = False
    network: Network | None = NETWORK
    health: Mapping[str, Health] = field(default_factory=dict)
    memories: Mapping[tuple[str, str], RestartHistory] = field(default_factory=dict)


def about(made: workload_pb2.Service, memory: RestartHistory) -> dict[tuple[str, str], RestartHistory]:
    spec = desired_service(made)
    return {(spec.spec.name, spec.hash): memory}


def waiting(failure: FailureCause, **more: Any) -> RestartHistory:
    return replace(NO_HISTORY, failure=failure, reason="because", retry=1010.0, retry_wall=2010.0, **more)


def ended_once(ran: float) -> RestartHistory:
    """Return the history after one exit, ``ran`` seconds after the start."""
    exited = container(OLD, ContainerState.EXITED, finished="t0")
    return NO_HISTORY.ended(exited, ContainerExit(1, False, "t0", ran), Now(900.0, 1900.0), seed="x")


EXAMINED = container(OLD, ContainerState.EXITED, finished="t1")
SEEN = replace(NO_HISTORY, counted_exit=EXAMINED.end_key, starts=1)

ROWS = [
    Row("network is created first", desired_of(OLD), [],
        ["create_network", "web:create", "web:start"], S.PENDING, network=None),
    Row("container is created on an existing network", desired_of(OLD), [], ["web:create", "web:start"], S.PENDING),
    Row("created container is started", desired_of(OLD), [container(OLD, ContainerState.CREATED)],
        ["web:start"], S.STARTING),
    Row("just started container is not ready", desired_of(OLD), [container(OLD, since=JUST)], [], S.STARTING),
    Row("container is ready after a moment", desired_of(OLD), [container(OLD)], [], settled=True),
    Row("unchanged container survives a newer release", desired_of(OLD, release=7), [container(OLD)], [], settled=True),
    Row("probes have to pass first", desired_of(OLD_WEB), [container(OLD_WEB)], [], S.STARTING),
    Row("service runs once probes pass", desired_of(OLD_WEB), [container(OLD_WEB)], [], settled=True,
        health={container(OLD_WEB).id: HEALTHY}),
    Row("a new spec starts beside the old container", desired_of(NEW), [container(OLD)],
        ["web:create", "web:start"], S.PENDING),
    Row("old container stays while the new one is probed",
        desired_of(NEW_WEB), [container(OLD_WEB), container(NEW_WEB)],
        [], S.STARTING, health={container(OLD_WEB).id: HEALTHY}),
    Row("old container is removed once the new one is healthy",
        desired_of(NEW_WEB), [container(OLD_WEB), container(NEW_WEB)],
        ["web:stop", "web:remove"], health={container(NEW_WEB).id: HEALTHY}),
    Row("exited old container is removed", desired_of(NEW), [container(OLD, ContainerState.EXITED), container(NEW)],
        ["web:remove"]),
    Row("new container past its start deadline is stopped beside an old one", desired_of(NEW_WEB),
        [container(OLD_WEB), container(NEW_WEB)], ["web:stop"], S.STARTING, failed=True,
        health={container(NEW_WEB).id: Health(ProbeVerdict.UNHEALTHY, past_start_deadline=True)}),
    Row("container past its start deadline stays without an old one",
        desired_of(NEW_WEB), [container(NEW_WEB)], [], S.STARTING, failed=True,
        health={container(NEW_WEB).id: Health(ProbeVerdict.UNHEALTHY, past_start_deadline=True)}),
    Row("container that became unhealthy is replaced at once", desired_of(OLD_WEB), [container(OLD_WEB)],
        ["web:stop", "web:remove", "web:create", "web:start"], health={container(OLD_WEB).id: UNHEALTHY},
        memories=about(OLD_WEB, replace(NO_HISTORY, ready_container=container(OLD_WEB).id))),
    Row("second replacement waits", desired_of(OLD_WEB), [container(OLD_WEB, since=991.0)], [],
        health={container(OLD_WEB).id: UNHEALTHY},
        memories=about(OLD_WEB, replace(NO_HISTORY, ready_container=container(OLD_WEB).id, lapses=1))),
    Row("second replacement happens ten seconds after the start",
        desired_of(OLD_WEB), [container(OLD_WEB, since=988.0)],
        ["web:stop", "web:remove", "web:create", "web:start"], health={container(OLD_WEB).id: UNHEALTHY},
        memories=about(OLD_WEB, replace(NO_HISTORY, ready_container=container(OLD_WEB).id, lapses=1))),
    Row("replacement that was never healthy is replaced", desired_of(OLD_WEB), [container(OLD_WEB, since=900.0)],
        ["web:stop", "web:remove", "web:create", "web:start"], health={container(OLD_WEB).id: UNHEALTHY},
        memories=about(OLD_WEB, replace(NO_HISTORY, ready_container="another", lapses=2))),
    Row("three lapses in a row fail the service",
        desired_of(OLD_WEB), [container(OLD_WEB, since=990.0)], [], failed=True,
        health={container(OLD_WEB).id: UNHEALTHY},
        memories=about(OLD_WEB, replace(NO_HISTORY, ready_container=container(OLD_WEB).id, lapses=3))),
    Row("unhealthy container that was stopped is recreated",
        desired_of(OLD_WEB), [container(OLD_WEB, ContainerState.EXITED)],
        ["web:remove", "web:create", "web:start"], S.STARTING,
        memories=about(OLD_WEB, NO_HISTORY.running(container(OLD_WEB)).became_unhealthy(container(OLD_WEB),
        "not healthy"))),
    Row("volumes: create, stop the old container, start", desired_of(NEW_DB),
        [container(OLD_DB)], ["web:create", "web:stop", "web:start"], S.PENDING),
    Row("volumes: old container is removed when the new one runs", desired_of(NEW_DB),
        [container(OLD_DB, ContainerState.EXITED), container(NEW_DB)], ["web:remove"]),
    Row("volumes: missing image leaves the old container alone", desired_of(NEW_DB), [container(OLD_DB)], [],
        S.BACKOFF, memories=about(NEW_DB, waiting(FailureCause.IMAGE, refusals=1))),
    Row("exit is examined first",
        desired_of(OLD), [container(OLD, ContainerState.EXITED)], ["web:examine"], S.STARTING),
    Row("exited container is restarted",
        desired_of(OLD), [EXAMINED], ["web:start"], S.STARTING, memories=about(OLD, SEEN)),
    Row("restart waits for the backoff", desired_of(OLD), [EXAMINED], [], S.BACKOFF,
        memories=about(OLD, replace(waiting(FailureCause.CRASHED), counted_exit=EXAMINED.end_key))),
    Row("three exits in a row fail the service", desired_of(OLD), [EXAMINED], [], S.BACKOFF, failed=True,
        memories=about(OLD, replace(waiting(FailureCause.CRASHED), counted_exit=EXAMINED.end_key, unstable=3))),
    Row("service stays failed while it runs again", desired_of(OLD), [container(OLD, since=995.0)], [], failed=True,
        memories=about(OLD, replace(NO_HISTORY, unstable=3))),
    Row("service that had lasted recovers after ten seconds", desired_of(OLD), [container(OLD, since=989.0)], [],
        settled=True, memories=about(OLD, replace(NO_HISTORY, unstable=3, lasted=True))),
    Row("service that has not lasted yet stays failed for a minute", desired_of(OLD), [container(OLD, since=941.0)],
        [], failed=True, memories=about(OLD, replace(NO_HISTORY, unstable=3))),
    Row("service that has not lasted yet recovers after a minute", desired_of(OLD), [container(OLD, since=939.0)], [],
        settled=True, memories=about(OLD, replace(NO_HISTORY, unstable=3))),
    Row("service settles after an exit once it has run for longer than before", desired_of(OLD),
        [container(OLD, since=995.0)], [], settled=True, memories=about(OLD, ended_once(2.0))),
    Row("service does not settle between two exits", desired_of(OLD), [container(OLD, since=995.0)], [],
        memories=about(OLD, ended_once(3.0))),
    Row("healthy service settles at once after an exit", desired_of(OLD_WEB), [container(OLD_WEB, since=999.0)], [],
        settled=True, health={container(OLD_WEB).id: HEALTHY}, memories=about(OLD_WEB, ended_once(3.0))),
    Row("container removed by hand is recreated at once", desired_of(OLD), [], ["web:create", "web:start"], S.PENDING,
        memories=about(OLD, waiting(FailureCause.CRASHED, starts=1))),
    Row("container removed by hand is started at once",
        desired_of(OLD), [container(OLD, ContainerState.CREATED)], ["web:start"], S.STARTING,
        memories=about(OLD, waiting(FailureCause.CRASHED, starts=1))),
    Row("registry image is pulled", desired_of(service(image=REMOTE)), [],
        ["web:pull", "web:create", "web:start"], S.PULLING,
        memories=about(service(image=REMOTE), replace(NO_HISTORY, image_missing=True))),
    Row("three refusals fail the service", desired_of(OLD), [], [], S.BACKOFF, failed=True,
        memories=about(OLD, waiting(FailureCause.REFUSED, refusals=3))),
    Row("failed service is retried all the same",
        desired_of(OLD), [], ["web:create", "web:start"], S.PENDING, failed=True,
        memories=about(OLD, replace(NO_HISTORY, refusals=3))),
    Row("unassigned service is removed", desired_of(), [container(OLD)],
        ["web:stop", "web:remove"], S.STOPPING),
    Row("tombstone removes everything", desired_of(removed=True), [container(OLD)],
        ["web:stop", "web:remove"], S.STOPPING),
    Row("created containers of other specs are removed",
        desired_of(NEW), [container(OLD, ContainerState.CREATED), container(NEW)],
        ["web:remove"]),
    Row("newest of two old containers serves", desired_of(NEW),
        [container(OLD), container(service(version="0"), release=0)],
        ["web:create", "web:start", "web:stop", "web:remove"], S.PENDING),
    Row("exited old container restarts while the new one cannot be created", desired_of(NEW), [EXAMINED],
        ["web:start"], S.BACKOFF,
        memories=about(NEW, waiting(FailureCause.IMAGE)) | about(OLD, replace(SEEN, ready_container=EXAMINED.id))),
    Row("old container stopped by the agent is not restarted", desired_of(NEW), [EXAMINED], ["web:remove"], S.BACKOFF,
        memories=about(NEW, waiting(FailureCause.IMAGE))
        | about(OLD, replace(SEEN, ready_container=EXAMINED.id, stopped_container=EXAMINED.id))),
    Row("container off the network is connected", desired_of(OLD), [replace(container(OLD), networks={})],
        ["web:connect"], S.STARTING),
    Row("container of a removed network is recreated", desired_of(OLD), [replace(EXAMINED, networks={
        desired_of().network: NetworkAttachment("net-0", "")})], ["web:remove", "web:create", "web:start"], S.STARTING,
        memories=about(OLD, SEEN)),
    Row("paused container is left alone and not settled", desired_of(OLD), [container(OLD, ContainerState.PAUSED)], []),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.says)
def test_next_actions_and_status(row: Row) -> None:
    histories = output_read(row.there, row.memories)
    planned = plan(row.goal, Observed(tuple(row.there), row.network, row.health), histories, NOW)
    assert action_kinds(planned.actions) == row.todo
    (service_plan,) = planned.services
    assert S.Phase.Name(service_plan.phase) == S.Phase.Name(row.phase)  # type: ignore[arg-type]
    assert (service_plan.settled, service_plan.failed) == (row.settled, row.failed)
    assert all(action.reason for action in planned.actions)


READ = ["web:read_output"]
HALTED = Health(ProbeVerdict.UNHEALTHY, past_start_deadline=True, message="answered 500")


@pytest.mark.parametrize(
    ("there", "health", "history", "todo", "status", "failed"),
    [
        pytest.param(
            [container(OLD_WEB), container(NEW_WEB)], HALTED, NO_HISTORY, [*READ, "web:stop"], S.CHECKING, False,
            id="past its start deadline beside an old container",
        ),
        pytest.param(
            [container(NEW_WEB)], HALTED, NO_HISTORY, READ, S.CHECKING, False,
            id="past its start deadline without an old container",
        ),
        pytest.param(
            [container(NEW_WEB)], UNHEALTHY, replace(NO_HISTORY, ready_container=container(NEW_WEB).id),
            [*READ, "web:stop", "web:remove", "web:create", "web:start"], S.HEALTHY, False, id="was healthy before",
        ),
        pytest.param(
            [container(NEW_WEB, since=991.0)], UNHEALTHY, replace(NO_HISTORY, lapses=1), READ, S.HEALTHY, False,
            id="is to be replaced later",
        ),
        pytest.param([container(NEW_WEB)], HEALTHY, NO_HISTORY, [], S.HEALTHY, False, id="is healthy"),
        pytest.param(
            [container(NEW_WEB)], Health(ProbeVerdict.CHECKING, message="refused"), NO_HISTORY, [], S.CHECKING, False,
            id="has not missed its start deadline",
        ),
        pytest.param(
            [container(NEW_WEB, ContainerState.PAUSED)], HALTED, NO_HISTORY, [], S.UNHEALTHY, True, id="is paused",
        ),
    ],
)  # fmt: skip
def test_output_of_an_unhealthy_container_is_read_before_anything_else(
    there: list[Container],
    health: Health,
    history: RestartHistory,
    todo: list[str],
    status: int,
    failed: bool,
) -> None:
    seen = Observed(tuple(there), NETWORK, {container(NEW_WEB).id: health})
    before = plan(desired_of(NEW_WEB), seen, about(NEW_WEB, history), NOW)
    assert action_kinds(before.actions) == todo
    (service_plan,) = before.services
    # Neither a failure nor bad health is reported without the output.
    assert (service_plan.health, service_plan.failed) == (status, failed)
    after = plan(desired_of(NEW_WEB), seen, output_read(there, about(NEW_WEB, history)), NOW)
    assert action_kinds(after.actions) == [kind for kind in todo if kind not in READ]


def test_tombstone_removes_the_network_last() -> None:
    planned = plan(desired_of(removed=True), Observed((), NETWORK), {}, NOW)
    assert action_kinds(planned.actions) == ["remove_network"]
    assert not planned.removed
    assert plan(desired_of(removed=True), Observed(), {}, NOW).removed


def test_assignment_without_services_needs_no_network() -> None:
    assert plan(desired_of(), Observed(), {}, NOW).actions == ()


IN_THE_WAY = "a network called x is in the way"


@pytest.mark.parametrize(
    ("failure", "refusals", "network", "problem"),
    [
        pytest.param(FailureCause.NAME_TAKEN, 1, None, IN_THE_WAY, id="name taken, at once"),
        pytest.param(FailureCause.ADDRESS_POOL, 1, None, IN_THE_WAY, id="no addresses left, at once"),
        pytest.param(FailureCause.REFUSED, 1, None, "", id="another refusal may pass"),
        pytest.param(FailureCause.REFUSED, 3, None, IN_THE_WAY, id="another refusal three times"),
        pytest.param(FailureCause.DISK_FULL, 2, None, "", id="disk full may pass"),
        pytest.param(FailureCause.NAME_TAKEN, 1, NETWORK, "", id="the network is there after all"),
    ],
)
@pytest.mark.parametrize("before", [None, 900.0])
def test_environment_without_a_network_says_why(
    failure: FailureCause, refusals: int, network: Network | None, problem: str, before: float | None
) -> None:
    history = replace(
        NO_HISTORY, failure=failure, refusals=refusals, reason=IN_THE_WAY, retry=before or 1010.0, retry_wall=1.0
    )
    planned = plan(desired_of(OLD), Observed((), network), {("", ""): history}, NOW)
    assert planned.problem == problem
    (service_plan,) = planned.services
    assert service_plan.reason == ("" if network else f"waits for the environment's network: {IN_THE_WAY}")
    # It is tried again all the same.
    assert (planned.network_wake is not None) == (before is None)
    status = build.status(desired_of(OLD), planned, {}, {}, "", None, {})
    assert status.problem == problem
    assert (status.phase == stored_pb2.AssignmentStatus.FAILED) == bool(problem)
    if problem:
        assert status.reason == problem


def test_tombstone_is_not_blocked_by_a_network_that_is_not_needed() -> None:
    history = {("", ""): waiting(FailureCause.NAME_TAKEN, refusals=1)}
    assert plan(desired_of(removed=True), Observed(), history, NOW).problem == ""


def test_missing_secret_is_the_reason_in_the_plan() -> None:
    spec = service(version="2")
    spec.secret_refs.add(name="PASSWORD", secret="DB_PASSWORD")
    planned = plan(desired_of(spec), Observed((container(OLD),), NETWORK), {}, NOW)
    (service_plan,) = planned.services
    assert planned.actions == ()
    assert service_plan.failed
    assert "DB_PASSWORD" in service_plan.reason
    assert service_plan.current == container(OLD)


@pytest.mark.parametrize(
    ("since", "memory", "wake"),
    [
        (999.9, NO_HISTORY, 1000.2),
        (995.0, replace(NO_HISTORY, unstable=3, lasted=True), 1005.0),
        (995.0, NO_HISTORY, 1055.0),
        (995.0, ended_once(4.0), 1003.0),
        (995.0, ended_once(40.0), 1005.0),
        (995.0, replace(NO_HISTORY, lasted=True), None),
        (900.0, NO_HISTORY, None),
    ],
)
def test_wake_is_the_time_at_which_the_plan_changes(since: float, memory: RestartHistory, wake: float | None) -> None:
    planned = plan(desired_of(OLD), Observed((container(OLD, since=since),), NETWORK), about(OLD, memory), NOW)
    assert planned.wake == (None if wake is None else pytest.approx(wake))


def test_wake_at_the_end_of_a_backoff() -> None:
    planned = plan(desired_of(OLD), Observed((), NETWORK), about(OLD, waiting(FailureCause.IMAGE)), NOW)
    assert planned.wake == 1010.0
    assert planned.services[0].retry_wall == 2010.0


def test_hint_at_the_cause_of_a_failure_is_part_of_its_reason_until_the_service_runs() -> None:
    failing = replace(waiting(FailureCause.CRASHED), counted_exit=EXAMINED.end_key, unstable=3, hint="chown it")
    planned = plan(desired_of(OLD), Observed((EXAMINED,), NETWORK), about(OLD, failing), NOW)
    assert planned.services[0].reason == "because; chown it"
    runs = Observed((container(OLD, since=989.0),), NETWORK)
    planned = plan(desired_of(OLD), runs, about(OLD, failing), NOW)
    assert "chown it" not in planned.services[0].reason


def test_failed_cleanup_has_a_backoff() -> None:
    memories = {("web", ""): waiting(FailureCause.REFUSED)}
    planned = plan(desired_of(), Observed((container(OLD),), NETWORK), memories, NOW)
    assert planned.actions == ()
    assert planned.services[0].reason == "because"
    assert planned.wake == 1010.0


@pytest.mark.parametrize(
    ("memory", "reason"),
    [
        (NO_HISTORY, ""),
        (ended_once(3.0), "runs again, but has ended once within 60 s of its start"),
        (replace(NO_HISTORY, unstable=3), "runs again, but has ended 3 times within 60 s of its start"),
        (replace(NO_HISTORY, unstable=3, lasted=True), "runs again, but has ended 3 times within 10 s of its start"),
    ],
)
def test_reason_of_a_service_that_has_ended_soon_after_its_start(memory: RestartHistory, reason: str) -> None:
    planned = plan(desired_of(OLD), Observed((container(OLD, since=995.0),), NETWORK), about(OLD, memory), NOW)
    assert planned.services[0].reason == reason


@pytest.mark.parametrize(
    ("spec", "there", "memory", "lasted"),
    [
        (OLD, container(OLD, since=940.1), NO_HISTORY, False),
        (OLD, container(OLD, since=940.0), NO_HISTORY, True),
        (OLD, container(OLD, since=999.0), replace(NO_HISTORY, lasted=True), True),
        (OLD, container(OLD, ContainerState.EXITED, finished="t1"), NO_HISTORY, False),
        (OLD, container(NEW), NO_HISTORY, False),
        # Up for long, but its probes do not pass.
        (OLD_WEB, container(OLD_WEB), NO_HISTORY, False),
    ],
)
def test_service_lasts_once_its_container_has_run_for_a_minute(
    spec: workload_pb2.Service, there: Container, memory: RestartHistory, lasted: bool
) -> None:
    planned = plan(desired_of(spec), Observed((there,), NETWORK), about(spec, memory), NOW)
    assert planned.services[0].lasted == lasted


def test_service_that_has_completed_has_lasted() -> None:
    job = service("job")
    done = container(job, ContainerState.EXITED, code=0, finished="t1")
    seen = {("job", desired_service(job).hash): replace(NO_HISTORY, counted_exit=done.end_key)}
    planned = plan(desired_of(job, service(after={"job": COMPLETED})), Observed((done,), NETWORK), seen, NOW)
    assert {item.service: item.lasted for item in planned.services} == {"job": True, "web": False}
