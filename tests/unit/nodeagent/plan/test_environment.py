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
from tests.unit.nodeagent.planning import ENV, REMOTE, container, kinds, service, want, wanted

S = stored_pb2.ServiceStatus
OLD, NEW = service(version="1"), service(version="2")
OLD_WEB, NEW_WEB = service(version="1", check=True), service(version="2", check=True)
OLD_DB, NEW_DB = service(version="1", volume=True), service(version="2", volume=True)
NETWORK = Network("net-1", want().network, str(ENV))
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
    spec = wanted(made)
    return {(spec.spec.name, spec.hash): memory}


def waiting(trouble: FailureCause, **more: Any) -> RestartHistory:
    return replace(NO_HISTORY, trouble=trouble, reason="because", retry=1010.0, retry_wall=2010.0, **more)


EXAMINED = container(OLD, ContainerState.EXITED, finished="t1")
SEEN = replace(NO_HISTORY, examined=EXAMINED.end_key, starts=1)

ROWS = [
    Row("nothing is there: network first, then the container", want(OLD), [],
        ["create_network", "web:create", "web:start"], S.PENDING, network=None),
    Row("the network is there", want(OLD), [], ["web:create", "web:start"], S.PENDING),
    Row("one that was created and not started is started", want(OLD), [container(OLD, ContainerState.CREATED)],
        ["web:start"], S.STARTING),
    Row("one that has just started does not count yet", want(OLD), [container(OLD, since=JUST)], [], S.STARTING),
    Row("one that has run for a moment does", want(OLD), [container(OLD)], [], settled=True),
    Row("an unchanged one is left alone by a newer release", want(OLD, release=7), [container(OLD)], [], settled=True),
    Row("with a check it must pass first", want(OLD_WEB), [container(OLD_WEB)], [], S.STARTING),
    Row("and runs when it has", want(OLD_WEB), [container(OLD_WEB)], [], settled=True,
        health={container(OLD_WEB).id: HEALTHY}),
    Row("a new spec starts beside the old container", want(NEW), [container(OLD)],
        ["web:create", "web:start"], S.PENDING),
    Row("the old one stays while the new one is checked", want(NEW_WEB), [container(OLD_WEB), container(NEW_WEB)],
        [], S.STARTING, health={container(OLD_WEB).id: HEALTHY}),
    Row("the old one goes when the new one is healthy", want(NEW_WEB), [container(OLD_WEB), container(NEW_WEB)],
        ["web:stop", "web:remove"], health={container(NEW_WEB).id: HEALTHY}),
    Row("an old one that has stopped already is removed", want(NEW), [container(OLD, ContainerState.EXITED), container(NEW)],
        ["web:remove"]),
    Row("a new one that never becomes healthy is stopped, the old one serves on", want(NEW_WEB),
        [container(OLD_WEB), container(NEW_WEB)], ["web:stop"], S.STARTING, failed=True,
        health={container(NEW_WEB).id: Health(ProbeVerdict.UNHEALTHY, past_start_deadline=True)}),
    Row("without an old one it is left to try", want(NEW_WEB), [container(NEW_WEB)], [], S.STARTING, failed=True,
        health={container(NEW_WEB).id: Health(ProbeVerdict.UNHEALTHY, past_start_deadline=True)}),
    Row("one that was healthy once and is not now is replaced at once", want(OLD_WEB), [container(OLD_WEB)],
        ["web:stop", "web:remove", "web:create", "web:start"], health={container(OLD_WEB).id: UNHEALTHY},
        memories=about(OLD_WEB, replace(NO_HISTORY, proved=container(OLD_WEB).id))),
    Row("the second time not before ten seconds after its start", want(OLD_WEB), [container(OLD_WEB, since=991.0)], [],
        health={container(OLD_WEB).id: UNHEALTHY},
        memories=about(OLD_WEB, replace(NO_HISTORY, proved=container(OLD_WEB).id, lapses=1))),
    Row("but then", want(OLD_WEB), [container(OLD_WEB, since=988.0)],
        ["web:stop", "web:remove", "web:create", "web:start"], health={container(OLD_WEB).id: UNHEALTHY},
        memories=about(OLD_WEB, replace(NO_HISTORY, proved=container(OLD_WEB).id, lapses=1))),
    Row("also when the one that took its place never was healthy", want(OLD_WEB), [container(OLD_WEB, since=900.0)],
        ["web:stop", "web:remove", "web:create", "web:start"], health={container(OLD_WEB).id: UNHEALTHY},
        memories=about(OLD_WEB, replace(NO_HISTORY, proved="another", lapses=2))),
    Row("three times in a row fail it", want(OLD_WEB), [container(OLD_WEB, since=990.0)], [], failed=True,
        health={container(OLD_WEB).id: UNHEALTHY},
        memories=about(OLD_WEB, replace(NO_HISTORY, proved=container(OLD_WEB).id, lapses=3))),
    Row("one that was stopped for that is made anew", want(OLD_WEB), [container(OLD_WEB, ContainerState.EXITED)],
        ["web:remove", "web:create", "web:start"], S.STARTING,
        memories=about(OLD_WEB, NO_HISTORY.running(container(OLD_WEB)).became_unhealthy(container(OLD_WEB), "not healthy"))),
    Row("volumes: the new one is created before the old one stops, and starts after", want(NEW_DB),
        [container(OLD_DB)], ["web:create", "web:stop", "web:start"], S.PENDING),
    Row("volumes: the old one is removed when the new one runs", want(NEW_DB),
        [container(OLD_DB, ContainerState.EXITED), container(NEW_DB)], ["web:remove"]),
    Row("volumes: an image that is missing leaves the old one alone", want(NEW_DB), [container(OLD_DB)], [],
        S.BACKOFF, memories=about(NEW_DB, waiting(FailureCause.IMAGE, refusals=1))),
    Row("an end is examined first", want(OLD), [container(OLD, ContainerState.EXITED)], ["web:examine"], S.STARTING),
    Row("then it is started again", want(OLD), [EXAMINED], ["web:start"], S.STARTING, memories=about(OLD, SEEN)),
    Row("unless it has to wait", want(OLD), [EXAMINED], [], S.BACKOFF,
        memories=about(OLD, replace(waiting(FailureCause.CRASHED), examined=EXAMINED.end_key))),
    Row("three ends in a row fail it", want(OLD), [EXAMINED], [], S.BACKOFF, failed=True,
        memories=about(OLD, replace(waiting(FailureCause.CRASHED), examined=EXAMINED.end_key, unstable=3))),
    Row("also while it runs again", want(OLD), [container(OLD, since=995.0)], [], failed=True,
        memories=about(OLD, replace(NO_HISTORY, unstable=3))),
    Row("until it has run for ten seconds", want(OLD), [container(OLD, since=989.0)], [], settled=True,
        memories=about(OLD, replace(NO_HISTORY, unstable=3))),
    Row("one that was removed by hand is made anew at once", want(OLD), [], ["web:create", "web:start"], S.PENDING,
        memories=about(OLD, waiting(FailureCause.CRASHED, starts=1))),
    Row("and started at once", want(OLD), [container(OLD, ContainerState.CREATED)], ["web:start"], S.STARTING,
        memories=about(OLD, waiting(FailureCause.CRASHED, starts=1))),
    Row("an image that a registry has is pulled", want(service(image=REMOTE)), [],
        ["web:pull", "web:create", "web:start"], S.PULLING,
        memories=about(service(image=REMOTE), replace(NO_HISTORY, image_missing=True))),
    Row("three refusals fail it", want(OLD), [], [], S.BACKOFF, failed=True,
        memories=about(OLD, waiting(FailureCause.REFUSED, refusals=3))),
    Row("and it is tried again all the same", want(OLD), [], ["web:create", "web:start"], S.PENDING, failed=True,
        memories=about(OLD, replace(NO_HISTORY, refusals=3))),
    Row("a service that is not assigned any more goes", want(), [container(OLD)],
        ["web:stop", "web:remove"], S.STOPPING),
    Row("a tombstone takes everything, the network last", want(removed=True), [container(OLD)],
        ["web:stop", "web:remove"], S.STOPPING),
    Row("half-made containers of other specs are removed", want(NEW), [container(OLD, ContainerState.CREATED), container(NEW)],
        ["web:remove"]),
    Row("the newest of two old ones serves on", want(NEW),
        [container(OLD), container(service(version="0"), release=0)],
        ["web:create", "web:start", "web:stop", "web:remove"], S.PENDING),
    Row("an old one that ended by itself is brought back while the new one cannot be made", want(NEW), [EXAMINED],
        ["web:start"], S.BACKOFF,
        memories=about(NEW, waiting(FailureCause.IMAGE)) | about(OLD, replace(SEEN, proved=EXAMINED.id))),
    Row("but not one that the agent has stopped", want(NEW), [EXAMINED], ["web:remove"], S.BACKOFF,
        memories=about(NEW, waiting(FailureCause.IMAGE))
        | about(OLD, replace(SEEN, proved=EXAMINED.id, stopped=EXAMINED.id))),
    Row("one without a network is put on it", want(OLD), [replace(container(OLD), networks={})],
        ["web:connect"], S.STARTING),
    Row("one that ended on a network that is gone is made anew", want(OLD), [replace(EXAMINED, networks={
        want().network: NetworkAttachment("net-0", "")})], ["web:remove", "web:create", "web:start"], S.STARTING,
        memories=about(OLD, SEEN)),
    Row("a paused one is left alone, and not called settled", want(OLD), [container(OLD, ContainerState.PAUSED)], []),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.says)
def test_plan(row: Row) -> None:
    made = plan(row.goal, Observed(tuple(row.there), row.network, row.health), row.memories, NOW)
    assert kinds(made.actions) == row.todo
    (found,) = made.services
    assert S.Phase.Name(found.phase) == S.Phase.Name(row.phase)  # type: ignore[arg-type]
    assert (found.settled, found.failed) == (row.settled, row.failed)
    assert all(action.reason for action in made.actions)


def test_a_tombstone_takes_the_network_last() -> None:
    made = plan(want(removed=True), Observed((), NETWORK), {}, NOW)
    assert kinds(made.actions) == ["remove_network"]
    assert not made.removed
    assert plan(want(removed=True), Observed(), {}, NOW).removed


def test_an_assignment_without_services_needs_no_network() -> None:
    assert plan(want(), Observed(), {}, NOW).actions == ()


def test_secrets_are_named_as_what_stands_in_the_way() -> None:
    made = service(version="2")
    made.secret_refs.add(name="PASSWORD", secret="DB_PASSWORD")
    planned = plan(want(made), Observed((container(OLD),), NETWORK), {}, NOW)
    (found,) = planned.services
    assert planned.actions == ()
    assert found.failed
    assert "DB_PASSWORD" in found.reason
    assert found.current == container(OLD)


@pytest.mark.parametrize(
    ("since", "memory", "wake"),
    [(999.9, NO_HISTORY, 1000.2), (995.0, replace(NO_HISTORY, unstable=3), 1005.0), (900.0, NO_HISTORY, None)],
)
def test_time_alone_wakes_it_when_time_alone_changes_the_answer(
    since: float, memory: RestartHistory, wake: float | None
) -> None:
    made = plan(want(OLD), Observed((container(OLD, since=since),), NETWORK), about(OLD, memory), NOW)
    assert made.wake == (None if wake is None else pytest.approx(wake))


def test_a_backoff_wakes_it_when_it_is_over() -> None:
    made = plan(want(OLD), Observed((), NETWORK), about(OLD, waiting(FailureCause.IMAGE)), NOW)
    assert made.wake == 1010.0
    assert made.services[0].retry_wall == 2010.0


def test_a_failed_cleanup_waits_too() -> None:
    memories = {("web", ""): waiting(FailureCause.REFUSED)}
    made = plan(want(), Observed((container(OLD),), NETWORK), memories, NOW)
    assert made.actions == ()
    assert made.services[0].reason == "because"
    assert made.wake == 1010.0
