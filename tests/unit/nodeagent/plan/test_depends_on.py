"""The plan where services depend on one another, where some are to complete, and where health does not last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest

from devopsellence.api.v1 import stored_pb2
from devopsellence.clock import Now
from devopsellence.nodeagent.docker.model import Container, ContainerState, Health, Network, Observed, ProbeVerdict
from devopsellence.nodeagent.plan.actions import RestartHistories, ServicePlan
from devopsellence.nodeagent.plan.environment import plan
from devopsellence.nodeagent.plan.history import NO_HISTORY, RESET_SECONDS, FailureCause, RestartHistory
from devopsellence.nodeagent.plan.spec import Desired
from tests.unit.nodeagent.planning import (
    COMPLETED,
    ENV,
    HEALTHY,
    STARTED,
    action_kinds,
    container,
    desired_of,
    desired_service,
    output_read,
    service,
)

S = stored_pb2.ServiceStatus
NETWORK = Network("net-1", desired_of().network, str(ENV))
NOW = Now(1000.0, 2000.0)
PASSES = Health(ProbeVerdict.HEALTHY)
REFUSED = Health(ProbeVerdict.CHECKING, message="connection refused")

REDIS = service("redis", check=True)
WEB = service("web", after={"redis": HEALTHY})
OLD_WEB = service("web", "0", after={"redis": HEALTHY})
DB = service("web", volume=True, after={"redis": HEALTHY})
OLD_DB = service("web", "0", volume=True)
JOB = service("job")
AFTER_JOB = service("web", after={"job": COMPLETED})
ENDED_WELL = container(JOB, ContainerState.EXITED, finished="t1", code=0)
ENDED_BADLY = container(JOB, ContainerState.EXITED, finished="t1", code=1)
EXAMINED = replace(NO_HISTORY, counted_exit=ENDED_WELL.end_key, starts=1)


def job(memory: RestartHistory = EXAMINED) -> RestartHistories:
    return {("job", desired_service(JOB).hash): memory}


@dataclass(frozen=True)
class Row:
    """``says``: of web, unless another service is named."""

    case: str
    goal: Desired
    there: Sequence[Container]
    todo: list[str]
    phase: int
    says: str = ""
    settled: bool = False
    failed: bool = False
    health: Mapping[str, Health] = field(default_factory=dict)
    memories: RestartHistories = field(default_factory=dict)
    about: str = "web"


ROWS = [
    Row("dependent service is created and waits", desired_of(WEB, REDIS), [],
        ["redis:create", "redis:start", "web:create"], S.PENDING, "waits for redis to be healthy"),
    Row("dependent service waits for probes with their message", desired_of(WEB, REDIS),
        [container(WEB, ContainerState.CREATED), container(REDIS)], [], S.PENDING,
        "waits for redis to be healthy: not healthy yet: connection refused", health={container(REDIS).id: REFUSED}),
    Row("dependent service starts once probes pass",
        desired_of(WEB, REDIS), [container(WEB, ContainerState.CREATED), container(REDIS)], ["web:start"],
        S.STARTING, health={container(REDIS).id: PASSES}),
    Row("old container of a dependency is not enough", desired_of(WEB, service("redis", "2", check=True)),
        [container(WEB, ContainerState.CREATED), container(REDIS)], ["redis:create", "redis:start"], S.PENDING,
        "waits for redis to be healthy", health={container(REDIS).id: PASSES}),
    Row("old container serves while the new one waits", desired_of(WEB, REDIS), [container(OLD_WEB), container(REDIS)],
        ["web:create"], S.PENDING, "waits for redis to be healthy", health={}),
    Row("volumes: old container runs until dependencies are met", desired_of(DB, REDIS),
        [container(OLD_DB), container(REDIS)], ["web:create"], S.PENDING, "waits for redis to be healthy"),
    Row("volumes: old container stops once dependencies are met",
        desired_of(DB, REDIS), [container(OLD_DB), container(DB, ContainerState.CREATED), container(REDIS)],
        ["web:stop", "web:start"], S.STARTING, health={container(REDIS).id: PASSES}),
    Row("volumes: exited old container restarts while the new one waits", desired_of(DB, REDIS),
        [container(OLD_DB, ContainerState.EXITED, finished="t1"), container(DB, ContainerState.CREATED),
        container(REDIS)],
        ["web:start"], S.PENDING, "waits for redis to be healthy",
        memories={("web", desired_service(OLD_DB).hash): replace(NO_HISTORY,
        counted_exit="web-" + desired_service(OLD_DB).hash[:6] + "@t1",
                                                        ready_container=container(OLD_DB).id)}),
    Row("running service is left alone when its dependency stops", desired_of(WEB, REDIS),
        [container(WEB), container(REDIS, ContainerState.EXITED)], ["redis:examine"], S.RUNNING, settled=True),
    Row("stopped service waits for its dependency again", desired_of(WEB, REDIS),
        [container(WEB, ContainerState.EXITED, finished="t1"), container(REDIS)], [], S.PENDING,
        "waits for redis to be healthy",
        memories={("web", desired_service(WEB).hash): replace(NO_HISTORY, counted_exit=container(WEB).id + "@t1")}),
    Row("service_started waits for probes, if there are any", desired_of(service(after={"redis": STARTED}), REDIS),
        [container(REDIS)], ["web:create"], S.PENDING,
        "waits for redis to be ready: not healthy yet: connection refused", health={container(REDIS).id: REFUSED}),
    Row("service_started needs no probes", desired_of(service(after={"job": STARTED}), service("job")),
        [container(service("job"))], ["web:create", "web:start"], S.PENDING),
    Row("service_started waits for a container that has just started", desired_of(service(after={"job": STARTED}),
        service("job")), [container(service("job"), since=999.9)], ["web:create"], S.PENDING,
        "waits for job to be ready"),
    Row("dependency on another node is not waited for", desired_of(WEB), [], ["web:create", "web:start"], S.PENDING),
    Row("chain of dependencies is named to its end", desired_of(service(after={"mid": STARTED}), service("mid", after={
        "redis": HEALTHY}), REDIS), [container(REDIS)], ["mid:create", "web:create"], S.PENDING,
        "waits for mid to be ready: waits for redis to be healthy"),
    Row("cycle is reported and nothing of it starts", desired_of(service(after={"b": STARTED}), service("b", after={
        "web": STARTED})), [], [], S.PENDING, "it depends on itself: web → b → web", failed=True),
    Row("unhealthy container is not replaced while the new one would wait", desired_of(service(check=True, after={
        "redis": HEALTHY}), REDIS), [container(service(check=True)), container(REDIS)], [], S.RUNNING,
        "not healthy: answered 500; is not replaced, because it waits for redis to be healthy",
        health={container(service(check=True)).id: Health(ProbeVerdict.UNHEALTHY, message="answered 500")},
        memories={("web", desired_service(service(check=True)).hash): replace(
            NO_HISTORY, ready_container=container(service(check=True)).id)}),

    Row("completing service runs first", desired_of(AFTER_JOB, JOB),
        [container(JOB), container(AFTER_JOB, ContainerState.CREATED)], [], S.PENDING,
        "waits for job to complete: has not completed yet"),
    Row("running completing service is not settled",
        desired_of(AFTER_JOB, JOB), [container(JOB), container(AFTER_JOB)], [], S.STARTING,
        "has not completed yet", about="job"),
    Row("exit code 0 completes the service", desired_of(AFTER_JOB, JOB), [ENDED_WELL, container(AFTER_JOB)], [],
        S.COMPLETED, settled=True, memories=job(), about="job"),
    Row("exit of a completing service is examined first",
        desired_of(AFTER_JOB, JOB), [replace(ENDED_WELL, finished_at="", exit_code=None),
        container(AFTER_JOB)], ["job:examine"], S.STARTING, "has ended", about="job"),
    Row("dependent service starts after completion",
        desired_of(AFTER_JOB, JOB), [ENDED_WELL], ["web:create", "web:start"],
        S.PENDING, memories=job()),
    Row("non-zero exit code is a crash",
        desired_of(AFTER_JOB, JOB), [ENDED_BADLY], ["job:start", "web:create"], S.PENDING,
        "waits for job to complete", memories=job()),
    Row("crash of a completing service has a backoff",
        desired_of(AFTER_JOB, JOB), [ENDED_BADLY], ["web:create"], S.BACKOFF, "because",
        memories=job(replace(EXAMINED, failure=FailureCause.CRASHED, reason="because", retry=1010.0)), about="job"),
    Row("three crashes fail a completing service", desired_of(AFTER_JOB, JOB), [ENDED_BADLY], ["web:create"], S.BACKOFF,
        "because", failed=True, about="job",
        memories=job(replace(EXAMINED, failure=FailureCause.CRASHED, reason="because", retry=1010.0, crashes=3))),
    Row("earlier crashes do not count after completion", desired_of(AFTER_JOB, JOB), [ENDED_WELL,
        container(AFTER_JOB)], [], S.COMPLETED, settled=True, about="job",
        memories=job(replace(EXAMINED, failure=FailureCause.CRASHED, retry=1010.0, crashes=9, unstable=9))),
    Row("stopped container has not completed", desired_of(AFTER_JOB, JOB), [ENDED_WELL], ["job:start", "web:create"],
        S.STARTING, memories=job(replace(EXAMINED, stopped_container=ENDED_WELL.id)), about="job"),
    Row("service without waiting dependents is restarted", desired_of(JOB), [ENDED_WELL], ["job:start"], S.STARTING,
        memories=job(), about="job"),
    Row("completed container of an older spec is not restarted",
        desired_of(AFTER_JOB, service("job", "2")), [ENDED_WELL,
        container(AFTER_JOB)], ["job:create", "job:start", "job:remove"], S.PENDING, memories=job(), about="job"),
    Row("service with probes can be waited for both ways",
        desired_of(service(after={"redis": HEALTHY}), service("z", after={
        "redis": COMPLETED}), REDIS), [container(REDIS)], ["web:create", "web:start", "z:create"], S.PENDING,
        health={container(REDIS).id: PASSES}),

    Row("leaving dependency stops after its dependents", desired_of(), [container(WEB), container(REDIS)],
        ["web:stop", "web:remove"], S.STOPPING, "is stopped after web, which depends on it", about="redis"),
    Row("leaving dependency stops last",
        desired_of(removed=True), [container(WEB, ContainerState.EXITED), container(REDIS)],
        ["redis:stop", "redis:remove", "web:remove"], S.STOPPING, "the environment left this node", about="redis"),
    Row("circular labels hold no container", desired_of(removed=True),
        [container(WEB), container(service("redis", after={"web": STARTED}))],
        ["redis:stop", "redis:remove", "web:stop", "web:remove"], S.STOPPING, "the environment left this node"),
    Row("label of a staying container does not count", desired_of(service()),
        [replace(container(service()), depends_on=("redis",)), container(REDIS)], ["redis:stop", "redis:remove"],
        S.RUNNING, settled=True),
    Row("old container keeps its dependencies until replaced", desired_of(service(version="9", check=True)),
        [container(OLD_WEB), container(REDIS), container(service(version="9", check=True))], [], S.STOPPING,
        "is stopped after web, which depends on it", about="redis"),
]  # fmt: skip


def planned(row: Row) -> tuple[list[str], dict[str, ServicePlan]]:
    histories = output_read(row.there, row.memories)
    planned = plan(row.goal, Observed(tuple(row.there), NETWORK, row.health), histories, NOW)
    return action_kinds(planned.actions), {service.service: service for service in planned.services}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.case)
def test_plan_with_dependencies(row: Row) -> None:
    actions, services = planned(row)
    service_plan = services[row.about]
    assert actions == row.todo
    assert S.Phase.Name(service_plan.phase) == S.Phase.Name(row.phase)  # type: ignore[arg-type]
    assert service_plan.reason == row.says
    assert (service_plan.settled, service_plan.failed) == (row.settled, row.failed)


def test_completed_container_stays_current() -> None:
    planned = plan(desired_of(AFTER_JOB, JOB), Observed((ENDED_WELL, container(AFTER_JOB)), NETWORK), job(), NOW)
    assert planned.services[0].current == ENDED_WELL
    assert planned.services[0].wake is None


def test_task_container_is_not_a_service_container() -> None:
    task = replace(container(service(version="old")), task="release")
    planned = plan(desired_of(service()), Observed((task, container(service())), NETWORK), {}, NOW)
    assert planned.actions == ()
    assert planned.services[0].settled


def test_network_stays_while_a_task_has_a_container() -> None:
    task = replace(container(service(version="old")), task="release")
    planned = plan(desired_of(removed=True), Observed((task,), NETWORK), {}, NOW)
    assert (planned.actions, planned.removed) == ((), False)


@pytest.mark.parametrize(("healthy_for", "lasting"), [(1.0, False), (RESET_SECONDS, True)])
def test_lapses_are_forgotten_after_ten_minutes_of_health(healthy_for: float, lasting: bool) -> None:
    web = service(check=True)
    spec = desired_service(web)
    healthy = Health(ProbeVerdict.HEALTHY, since=Now(NOW.mono - healthy_for, 0.0))
    seen = Observed((container(web),), NETWORK, {container(web).id: healthy})
    (service_plan,) = plan(desired_of(web), seen, {("web", spec.hash): replace(NO_HISTORY, lapses=2)}, NOW).services
    assert service_plan.lapses_expired == lasting
    assert service_plan.wake == (None if lasting else NOW.mono + RESET_SECONDS - healthy_for)


def test_unhealthy_since_and_next_replacement_are_reported() -> None:
    spec = service(check=True)
    unhealthy = Health(ProbeVerdict.UNHEALTHY, message="answered 500", since=Now(995.0, 1995.0))
    seen = Observed((container(spec, since=994.0),), NETWORK, {container(spec).id: unhealthy})
    memory = replace(NO_HISTORY, lapses=1, ready_container=container(spec).id)
    histories = output_read(seen.containers, {("web", desired_service(spec).hash): memory})
    (service_plan,) = plan(desired_of(spec), seen, histories, NOW).services
    assert (service_plan.health, service_plan.unhealthy_since) == (S.UNHEALTHY, 1995.0)
    assert service_plan.wake is not None
    assert 1004.0 <= service_plan.wake <= 1005.0
    assert service_plan.retry_wall == pytest.approx(service_plan.wake + 1000.0)
    assert service_plan.reason == "not healthy: answered 500; is replaced again later"
