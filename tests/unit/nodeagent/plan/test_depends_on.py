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
from tests.unit.nodeagent.planning import COMPLETED, ENV, HEALTHY, STARTED, container, kinds, service, want, wanted

S = stored_pb2.ServiceStatus
NETWORK = Network("net-1", want().network, str(ENV))
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
EXAMINED = replace(NO_HISTORY, examined=ENDED_WELL.end_key, starts=1)


def job(memory: RestartHistory = EXAMINED) -> RestartHistories:
    return {("job", wanted(JOB).hash): memory}


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
    Row("what depends on nothing yet is created and waits", want(WEB, REDIS), [],
        ["redis:create", "redis:start", "web:create"], S.PENDING, "waits for redis to be healthy"),
    Row("it waits until the checks pass, and says what they say", want(WEB, REDIS),
        [container(WEB, ContainerState.CREATED), container(REDIS)], [], S.PENDING,
        "waits for redis to be healthy: not healthy yet: connection refused", health={container(REDIS).id: REFUSED}),
    Row("then it is started", want(WEB, REDIS), [container(WEB, ContainerState.CREATED), container(REDIS)], ["web:start"],
        S.STARTING, health={container(REDIS).id: PASSES}),
    Row("an old container of what it depends on is not enough", want(WEB, service("redis", "2", check=True)),
        [container(WEB, ContainerState.CREATED), container(REDIS)], ["redis:create", "redis:start"], S.PENDING,
        "waits for redis to be healthy", health={container(REDIS).id: PASSES}),
    Row("the old one serves on while the new one waits", want(WEB, REDIS), [container(OLD_WEB), container(REDIS)],
        ["web:create"], S.PENDING, "waits for redis to be healthy", health={}),
    Row("one with volumes does not stop the old one before that", want(DB, REDIS),
        [container(OLD_DB), container(REDIS)], ["web:create"], S.PENDING, "waits for redis to be healthy"),
    Row("but then", want(DB, REDIS), [container(OLD_DB), container(DB, ContainerState.CREATED), container(REDIS)],
        ["web:stop", "web:start"], S.STARTING, health={container(REDIS).id: PASSES}),
    Row("its old one is brought back while the new one waits", want(DB, REDIS),
        [container(OLD_DB, ContainerState.EXITED, finished="t1"), container(DB, ContainerState.CREATED), container(REDIS)],
        ["web:start"], S.PENDING, "waits for redis to be healthy",
        memories={("web", wanted(OLD_DB).hash): replace(NO_HISTORY, examined="web-" + wanted(OLD_DB).hash[:6] + "@t1",
                                                        proved=container(OLD_DB).id)}),
    Row("one that runs is left alone when what it depends on goes down", want(WEB, REDIS),
        [container(WEB), container(REDIS, ContainerState.EXITED)], ["redis:examine"], S.RUNNING, settled=True),
    Row("when all went down it waits again", want(WEB, REDIS),
        [container(WEB, ContainerState.EXITED, finished="t1"), container(REDIS)], [], S.PENDING, "waits for redis to be healthy",
        memories={("web", wanted(WEB).hash): replace(NO_HISTORY, examined=container(WEB).id + "@t1")}),
    Row("started is enough where started is asked for", want(service(after={"redis": STARTED}), REDIS),
        [container(REDIS)], ["web:create", "web:start"], S.PENDING, health={container(REDIS).id: REFUSED}),
    Row("what is not on this node is not waited for", want(WEB), [], ["web:create", "web:start"], S.PENDING),
    Row("a chain of waits is told to its end", want(service(after={"mid": STARTED}), service("mid", after={
        "redis": HEALTHY}), REDIS), [container(REDIS)], ["mid:create", "web:create"], S.PENDING,
        "waits for mid to be started: waits for redis to be healthy"),
    Row("a cycle is said, and nothing of it is started", want(service(after={"b": STARTED}), service("b", after={
        "web": STARTED})), [], [], S.PENDING, "it depends on itself: web → b → web", failed=True),
    Row("one that was healthy is not replaced while the new one would wait", want(service(check=True, after={
        "redis": HEALTHY}), REDIS), [container(service(check=True)), container(REDIS)], [], S.RUNNING,
        "not healthy: answered 500; is not replaced, because it waits for redis to be healthy",
        health={container(service(check=True)).id: Health(ProbeVerdict.UNHEALTHY, message="answered 500")},
        memories={("web", wanted(service(check=True)).hash): replace(NO_HISTORY, proved=container(service(
            check=True)).id)}),

    Row("one that is to complete runs first", want(AFTER_JOB, JOB),
        [container(JOB), container(AFTER_JOB, ContainerState.CREATED)], [], S.PENDING,
        "waits for job to complete: has not completed yet"),
    Row("while it runs it is not settled", want(AFTER_JOB, JOB), [container(JOB), container(AFTER_JOB)], [], S.STARTING,
        "has not completed yet", about="job"),
    Row("when it has ended well it has completed", want(AFTER_JOB, JOB), [ENDED_WELL, container(AFTER_JOB)], [],
        S.COMPLETED, settled=True, memories=job(), about="job"),
    Row("its end is examined before", want(AFTER_JOB, JOB), [replace(ENDED_WELL, finished_at="", exit_code=None),
        container(AFTER_JOB)], ["job:examine"], S.STARTING, "has ended", about="job"),
    Row("what waits for it is started then", want(AFTER_JOB, JOB), [ENDED_WELL], ["web:create", "web:start"],
        S.PENDING, memories=job()),
    Row("another exit code is a crash", want(AFTER_JOB, JOB), [ENDED_BADLY], ["job:start", "web:create"], S.PENDING,
        "waits for job to complete", memories=job()),
    Row("that is tried again later", want(AFTER_JOB, JOB), [ENDED_BADLY], ["web:create"], S.BACKOFF, "because",
        memories=job(replace(EXAMINED, trouble=FailureCause.CRASHED, reason="because", retry=1010.0)), about="job"),
    Row("three of them fail it, however long it ran", want(AFTER_JOB, JOB), [ENDED_BADLY], ["web:create"], S.BACKOFF,
        "because", failed=True, about="job",
        memories=job(replace(EXAMINED, trouble=FailureCause.CRASHED, reason="because", retry=1010.0, crashes=3))),
    Row("what came before does not count once it has completed", want(AFTER_JOB, JOB), [ENDED_WELL,
        container(AFTER_JOB)], [], S.COMPLETED, settled=True, about="job",
        memories=job(replace(EXAMINED, trouble=FailureCause.CRASHED, retry=1010.0, crashes=9, unstable=9))),
    Row("one that the agent stopped has not completed", want(AFTER_JOB, JOB), [ENDED_WELL], ["job:start", "web:create"],
        S.STARTING, memories=job(replace(EXAMINED, stopped=ENDED_WELL.id)), about="job"),
    Row("one that nobody waits for to complete is started again", want(JOB), [ENDED_WELL], ["job:start"], S.STARTING,
        memories=job(), about="job"),
    Row("the completed one of an older spec is not run again", want(AFTER_JOB, service("job", "2")), [ENDED_WELL,
        container(AFTER_JOB)], ["job:create", "job:start", "job:remove"], S.PENDING, memories=job(), about="job"),
    Row("one with checks may be waited for both ways", want(service(after={"redis": HEALTHY}), service("z", after={
        "redis": COMPLETED}), REDIS), [container(REDIS)], ["web:create", "web:start", "z:create"], S.PENDING,
        health={container(REDIS).id: PASSES}),

    Row("what leaves is stopped after what depends on it", want(), [container(WEB), container(REDIS)],
        ["web:stop", "web:remove"], S.STOPPING, "is stopped after web, which depends on it", about="redis"),
    Row("then it goes too", want(removed=True), [container(WEB, ContainerState.EXITED), container(REDIS)],
        ["redis:stop", "redis:remove", "web:remove"], S.STOPPING, "the environment left this node", about="redis"),
    Row("labels that go round in a circle hold nobody", want(removed=True),
        [container(WEB), container(service("redis", after={"web": STARTED}))],
        ["redis:stop", "redis:remove", "web:stop", "web:remove"], S.STOPPING, "the environment left this node"),
    Row("the label of a container that stays is not asked", want(service()),
        [replace(container(service()), depends_on=("redis",)), container(REDIS)], ["redis:stop", "redis:remove"],
        S.RUNNING, settled=True),
    Row("an old container keeps what it needs until it is replaced", want(service(version="9", check=True)),
        [container(OLD_WEB), container(REDIS), container(service(version="9", check=True))], [], S.STOPPING,
        "is stopped after web, which depends on it", about="redis"),
]  # fmt: skip


def planned(row: Row) -> tuple[list[str], dict[str, ServicePlan]]:
    made = plan(row.goal, Observed(tuple(row.there), NETWORK, row.health), row.memories, NOW)
    return kinds(made.actions), {each.service: each for each in made.services}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.case)
def test_plan(row: Row) -> None:
    actions, services = planned(row)
    found = services[row.about]
    assert actions == row.todo
    assert S.Phase.Name(found.phase) == S.Phase.Name(row.phase)  # type: ignore[arg-type]
    assert found.reason == row.says
    assert (found.settled, found.failed) == (row.settled, row.failed)


def test_the_container_of_what_has_completed_stays_its_own() -> None:
    made = plan(want(AFTER_JOB, JOB), Observed((ENDED_WELL, container(AFTER_JOB)), NETWORK), job(), NOW)
    assert made.services[0].current == ENDED_WELL
    assert made.services[0].wake is None


def test_a_task_is_none_of_a_services_containers() -> None:
    task = replace(container(service(version="old")), task="release")
    made = plan(want(service()), Observed((task, container(service())), NETWORK), {}, NOW)
    assert made.actions == ()
    assert made.services[0].settled


def test_a_network_is_not_taken_from_under_a_task() -> None:
    task = replace(container(service(version="old")), task="release")
    made = plan(want(removed=True), Observed((task,), NETWORK), {}, NOW)
    assert (made.actions, made.removed) == ((), False)


@pytest.mark.parametrize(("healthy_for", "lasting"), [(1.0, False), (RESET_SECONDS, True)])
def test_lapses_are_forgotten_after_ten_minutes_of_health(healthy_for: float, lasting: bool) -> None:
    made = service(check=True)
    spec = wanted(made)
    healthy = Health(ProbeVerdict.HEALTHY, since=Now(NOW.mono - healthy_for, 0.0))
    seen = Observed((container(made),), NETWORK, {container(made).id: healthy})
    (found,) = plan(want(made), seen, {("web", spec.hash): replace(NO_HISTORY, lapses=2)}, NOW).services
    assert found.lapses_expired == lasting
    assert found.wake == (None if lasting else NOW.mono + RESET_SECONDS - healthy_for)


def test_since_when_it_is_unhealthy_and_when_it_is_replaced_again_is_told() -> None:
    made = service(check=True)
    unhealthy = Health(ProbeVerdict.UNHEALTHY, message="answered 500", since=Now(995.0, 1995.0))
    seen = Observed((container(made, since=994.0),), NETWORK, {container(made).id: unhealthy})
    memory = replace(NO_HISTORY, lapses=1, proved=container(made).id)
    (found,) = plan(want(made), seen, {("web", wanted(made).hash): memory}, NOW).services
    assert (found.health, found.unhealthy_since) == (S.UNHEALTHY, 1995.0)
    assert found.wake is not None
    assert 1004.0 <= found.wake <= 1005.0
    assert found.retry_wall == pytest.approx(found.wake + 1000.0)
    assert found.reason == "not healthy: answered 500; is replaced again later"
