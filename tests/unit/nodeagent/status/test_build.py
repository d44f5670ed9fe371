"""Assignment status built from a plan."""

from __future__ import annotations

from dataclasses import replace

import pytest

from devopsellence.api.v1 import stored_pb2, workload_pb2
from devopsellence.clock import Now
from devopsellence.nodeagent.docker.model import (
    Container,
    ContainerExit,
    ContainerSettings,
    ContainerState,
    ForeignContainer,
    Health,
    Network,
    Observed,
    ProbeVerdict,
)
from devopsellence.nodeagent.plan.actions import Action, ActionKind, RestartHistories
from devopsellence.nodeagent.plan.environment import plan
from devopsellence.nodeagent.plan.history import NO_HISTORY, FailureCause, RestartHistory
from devopsellence.nodeagent.plan.spec import Desired
from devopsellence.nodeagent.status import build
from tests.unit.nodeagent.planning import COMPLETED, ENV, REMOTE, UID, container, desired_of, desired_service, service

A = stored_pb2.AssignmentStatus
S = stored_pb2.ServiceStatus
NETWORK = Network("net-1", desired_of().network, str(ENV))
OLD, NEW = service(version="1", check=True), service(version="2", check=True)


def status(
    desired: Desired,
    *containers: Container,
    healthy: bool = True,
    memories: RestartHistories | None = None,
    network: Network | None = NETWORK,
    problem: str = "",
    busy: Action | None = None,
    foreign: tuple[ForeignContainer, ...] = (),
) -> A:
    verdict = ProbeVerdict.HEALTHY if healthy else ProbeVerdict.CHECKING
    observed = Observed(containers, network, {item.id: Health(verdict) for item in containers}, foreign=foreign)
    memories = memories or {}
    planned = plan(desired, observed, memories, Now(1000.0, 2000.0))
    return build.status(
        desired, planned, memories, {"web": "3 of 7 layers"}, problem, None, {busy.service: busy} if busy else {}
    )


def test_settled_status() -> None:
    result = status(desired_of(OLD, release=3), container(OLD))
    (web,) = result.services
    assert (result.phase, result.reason, result.generation, result.release, result.node_uid) == (
        A.SETTLED,
        "",
        3,
        3,
        UID,
    )
    assert (web.phase, web.health, web.address, web.reused) == (S.RUNNING, S.HEALTHY, "172.18.0.2", True)
    assert web.release == 1
    assert web.started_at.ToJsonString() == "2026-01-01T00:00:00Z"
    assert web.hash == desired_service(OLD).hash


def test_defaults_of_a_reused_container_are_pending() -> None:
    before = replace(container(OLD), settings=ContainerSettings(pids=4096))
    (web,) = status(desired_of(OLD, release=3), before).services
    assert list(web.pending) == ["security.new_privileges: false", "security.cap_add: []"]
    # The container of another spec is replaced anyway.
    (web,) = status(desired_of(NEW, release=3), before, healthy=False).services
    assert list(web.pending) == []


def test_container_of_this_release_is_not_reused() -> None:
    assert not status(desired_of(OLD), container(OLD)).services[0].reused


def test_old_container_is_reported_during_probes_of_the_new() -> None:
    old, new = container(OLD, identity="old"), container(NEW, identity="new")
    result = status(desired_of(NEW, release=2), old, new, healthy=False)
    (web,) = result.services
    assert (result.phase, web.phase, web.container, web.release) == (A.CONVERGING, S.STARTING, "old", 1)
    assert not web.reused


def test_failed_status_has_service_and_reason() -> None:
    key = ("web", desired_service(OLD).hash)
    end = ContainerExit(3, False, "2026-01-01T00:00:07.123456789Z", 0.2, ("one", "two"))
    memory = replace(
        NO_HISTORY, failure=FailureCause.CRASHED, reason="ended with exit code 3", refusals=0, unstable=3, starts=5,
        retry=1005.0, retry_wall=2005.0, last_end=end, counted_exit="web@t1",
    )  # fmt: skip
    there = container(OLD, ContainerState.EXITED, identity="web", finished="t1")
    result = status(desired_of(OLD), there, memories={key: memory})
    (web,) = result.services
    assert (result.phase, result.reason) == (A.FAILED, "web: ended with exit code 3")
    assert (web.phase, web.failed, web.restarts, web.next_attempt_at.ToSeconds()) == (S.BACKOFF, True, 4, 2005)
    assert (web.last_exit.code, list(web.last_exit.log_lines)) == (3, ["one", "two"])
    assert web.container == ""


def test_exit_code_zero_is_reported() -> None:
    memory = replace(NO_HISTORY, last_end=ContainerExit(0, False, "", 1.0))
    result = status(desired_of(OLD), container(OLD), memories={("web", desired_service(OLD).hash): memory})
    assert result.services[0].last_exit.HasField("code")


@pytest.mark.parametrize(
    ("history", "missing"),
    [
        pytest.param(replace(NO_HISTORY, image_missing=True), True, id="to be pulled"),
        pytest.param(replace(NO_HISTORY, failure=FailureCause.IMAGE, retry=1005.0), True, id="nowhere to pull from"),
        pytest.param(replace(NO_HISTORY, failure=FailureCause.PULL, retry=1005.0), True, id="not pulled"),
        pytest.param(replace(NO_HISTORY, failure=FailureCause.CRASHED, retry=1005.0), False, id="crashed"),
        pytest.param(NO_HISTORY, False, id="nothing is known"),
    ],
)
def test_missing_image_is_reported_also_after_an_exit(history: RestartHistory, *, missing: bool) -> None:
    history = replace(history, last_end=ContainerExit(137, False, "", 1.0))
    result = status(desired_of(OLD), memories={("web", desired_service(OLD).hash): history})
    assert result.services[0].image_missing is missing
    assert result.services[0].last_exit.code == 137


def test_pull_progress_is_reported() -> None:
    remote = service(image=REMOTE)
    memory = replace(NO_HISTORY, image_missing=True)
    result = status(desired_of(remote), memories={("web", desired_service(remote).hash): memory})
    assert result.services[0].reason == f"pulling {REMOTE}: 3 of 7 layers"


def test_unhealthy_since_is_reported() -> None:
    running = container(OLD)
    since = Now(990.0, 1990.5)
    observed = Observed(
        (running,), NETWORK, {running.id: Health(ProbeVerdict.UNHEALTHY, message="answered 500", since=since)}
    )
    noted = NO_HISTORY.found_unhealthy(running, "not healthy: answered 500", Now(990.0, 1990.5), ("no database",))
    memories = {("web", desired_service(OLD).hash): replace(noted, ready_container=running.id, lapses=1)}
    planned = plan(desired_of(OLD), observed, memories, Now(1000.0, 2000.0))
    (web,) = build.status(desired_of(OLD), planned, memories, {}, "", None, {}).services
    assert (web.health, web.unhealthy_since.ToMilliseconds()) == (S.UNHEALTHY, 1_990_500)
    assert web.last_unhealthy.container == running.id[:12]
    assert (web.last_unhealthy.reason, list(web.last_unhealthy.log_lines)) == (
        "not healthy: answered 500",
        ["no database"],
    )
    assert web.last_unhealthy.at.ToMilliseconds() == 1_990_500
    (without,) = status(desired_of(OLD), running).services
    assert not without.HasField("unhealthy_since")
    assert not without.HasField("last_unhealthy")


def test_completed_service_is_settled_with_its_container() -> None:
    job = service("job")
    goal = desired_of(job, service(version="1", after={"job": COMPLETED}))
    done = container(job, ContainerState.EXITED, finished="t1", code=0)
    memories = {("job", desired_service(job).hash): replace(NO_HISTORY, counted_exit=done.end_key)}
    result = status(goal, done, container(service(version="1")), memories=memories)
    assert result.phase == A.SETTLED
    assert (result.services[0].phase, result.services[0].container) == (S.COMPLETED, done.id[:12])


def test_leaving_service_is_reported_until_removed() -> None:
    result = status(desired_of(OLD), container(OLD), container(service("gone")))
    assert result.phase == A.CONVERGING
    assert [(service_.name, service_.phase) for service_ in result.services] == [
        ("gone", S.STOPPING),
        ("web", S.RUNNING),
    ]


def test_tombstone_is_removed_at_the_end() -> None:
    assert status(desired_of(removed=True), container(OLD)).phase == A.CONVERGING
    assert status(desired_of(removed=True)).phase == A.CONVERGING
    assert status(desired_of(removed=True), network=None).phase == A.REMOVED


def test_unreadable_assignment_is_an_error_with_services() -> None:
    result = status(desired_of(OLD), container(OLD), problem="it does not parse")
    assert (result.phase, result.reason, len(result.services)) == (A.ERROR, "it does not parse", 1)
    assert build.unreadable("n1", UID, ENV, "it does not parse").phase == A.ERROR


def test_empty_assignment_is_settled() -> None:
    assert status(desired_of(), network=None).phase == A.SETTLED


def test_container_that_has_had_sigterm_is_stopping() -> None:
    old, new = container(OLD, identity="a" * 64), container(NEW, identity="b" * 64)

    def stop(stopped: Container) -> Action:
        return Action(ActionKind.STOP, "because", "web", stopped.hash, stopped.id, stopped.name)

    (leaving,) = status(desired_of(), old, busy=stop(old)).services
    assert (leaving.phase, leaving.stopping) == (S.STOPPING, "a" * 12)
    assert leaving.reason == "the assignment no longer holds this service"
    (replaced,) = status(desired_of(NEW), old, new, busy=stop(old)).services
    assert (replaced.phase, replaced.container, replaced.stopping) == (S.RUNNING, "b" * 12, "a" * 12)
    assert replaced.reason.endswith(f"the older container {old.name} is stopping (it has had SIGTERM)")
    assert replaced.waits_for_older
    # After a rollback to the old one, before its stop has ended.
    again = status(desired_of(OLD), old, busy=stop(old))
    assert (again.phase, again.reason) == (A.CONVERGING, f"web: {again.services[0].reason}")
    assert (again.services[0].phase, again.services[0].waits_for_older) == (S.STOPPING, True)
    unhealthy = replace(stop(old), became_unhealthy=True)
    assert not status(desired_of(OLD), old, busy=unhealthy).services[0].waits_for_older
    (settled,) = status(desired_of(NEW), new).services
    assert (settled.stopping, settled.reason, settled.waits_for_older) == ("", "", False)


def test_status_says_which_services_have_lasted() -> None:
    lasted = {("web", desired_service(OLD).hash): NO_HISTORY.has_lasted()}
    (web,) = status(desired_of(OLD), replace(container(OLD), running_since=999.0), memories=lasted).services
    assert web.lasted
    (web,) = status(desired_of(OLD), replace(container(OLD), running_since=999.0)).services
    assert web.HasField("lasted")
    assert not web.lasted
    (leaving,) = status(desired_of(), container(OLD)).services
    assert not leaving.HasField("lasted")


FULL = "the agent cannot write its folder"


def with_problem(desired: Desired, *containers: Container, healthy: bool = True, problem: str = FULL) -> A:
    observed = Observed(
        containers,
        NETWORK,
        {item.id: Health(ProbeVerdict.HEALTHY if healthy else ProbeVerdict.CHECKING) for item in containers},
    )
    planned = plan(desired, observed, {}, Now(1000.0, 2000.0))
    return build.with_folder_problem(build.status(desired, planned, {}, {}, "", None, {}), planned, problem)


def test_folder_problem_fails_what_has_not_settled() -> None:
    result = with_problem(desired_of(OLD), container(OLD), healthy=False)
    (web,) = result.services
    assert (result.phase, web.failed) == (A.FAILED, True)
    assert web.reason.endswith(FULL)
    assert result.reason == f"web: {web.reason}"


def test_folder_problem_leaves_what_has_settled() -> None:
    assert with_problem(desired_of(OLD), container(OLD)) == with_problem(desired_of(OLD), container(OLD), problem="")


def test_unsaved_assignment_fails_where_it_differs() -> None:
    other = service("db", version="1")
    in_force, after = desired_of(OLD, other, release=3), desired_of(NEW, other, service("new"), release=4)
    before = status(in_force, container(OLD), container(other))
    result = build.unsaved(after, FULL, in_force, before)
    assert (result.generation, result.release, result.phase) == (after.generation, 4, A.FAILED)
    assert {each.name: (each.failed, each.reason) for each in result.services} == {
        "db": (False, ""),
        "new": (True, FULL),
        "web": (True, FULL),
    }
    # The container that runs all the same is shown.
    assert {each.container for each in result.services if each.name == "web"} == {
        each.container for each in before.services if each.name == "web"
    }


def test_unsaved_assignment_with_nothing_new_is_as_the_one_in_force() -> None:
    in_force, after = desired_of(OLD, release=3), desired_of(OLD, release=5)
    before = status(in_force, container(OLD))
    result = build.unsaved(after, FULL, in_force, before)
    assert (result.generation, result.release, result.phase, result.reason) == (after.generation, 5, A.SETTLED, "")
    assert result.services == before.services


def test_unsaved_assignment_that_removes_a_service_or_everything_fails() -> None:
    in_force = desired_of(OLD, service("db"), release=3)
    before = status(in_force, container(OLD), container(service("db")))
    without = build.unsaved(desired_of(OLD, release=4), FULL, in_force, before)
    assert {each.name: each.failed for each in without.services} == {"db": True, "web": False}
    gone = build.unsaved(replace(desired_of(release=5), removed=True), FULL, in_force, before)
    assert gone.phase == A.FAILED
    assert gone.reason.endswith(FULL)


def test_unsaved_first_assignment_fails_as_a_whole() -> None:
    result = build.unsaved(desired_of(OLD), FULL, None, None)
    (web,) = result.services
    assert (result.phase, web.phase, web.failed, web.reason) == (A.FAILED, S.PENDING, True, FULL)
    assert (result.node_uid, result.environment) == (UID, ENV.environment)


def test_unsaved_assignment_runs_no_release_task() -> None:
    task = workload_pb2.Task(name="migrate", service="web")
    in_force = desired_of(OLD, release=3)
    after = replace(desired_of(OLD, release=4), task=task)
    result = build.unsaved(after, FULL, in_force, status(in_force, container(OLD)))
    assert (result.task.phase, result.task.release) == (stored_pb2.TaskStatus.FAILED, 4)
    assert result.task.reason == f"it has not been started: {FULL}"


def test_unsaved_change_of_the_ingress_fails() -> None:
    in_force = desired_of(OLD, release=3)
    after = replace(desired_of(OLD, release=4), ingress=workload_pb2.Ingress(hosts=["a.example"]))
    result = build.unsaved(after, FULL, in_force, status(in_force, container(OLD)))
    assert (result.phase, result.ingress.phase, result.ingress.reason) == (
        A.FAILED,
        stored_pb2.IngressStatus.FAILED,
        FULL,
    )


def test_foreign_containers_are_named_and_change_nothing() -> None:
    copy = ForeignContainer("f1", "web-try", str(ENV), "web")
    result = status(desired_of(OLD), container(OLD), foreign=(copy,))
    (web,) = result.services
    assert (result.phase, result.reason, web.phase) == (A.SETTLED, "", S.RUNNING)
    assert web.reason == (
        "container web-try carries the agent's labels, but was not created by it, and is left alone "
        "(docker rm -f web-try)"
    )
    taker = ForeignContainer("f2", "shop-web-1", str(ENV), "web", takes_name=True)
    (web,) = status(desired_of(OLD), container(OLD), foreign=(taker, copy)).services
    assert "container shop-web-1 has a name that the agent gives" in web.reason
    assert web.reason.endswith("(docker rename shop-web-1 shop-web-1-other), and 1 more")


def test_foreign_container_of_no_service_is_named_by_another_service_or_for_the_environment() -> None:
    other = ForeignContainer("f1", "debug", str(ENV), "gone")
    result = status(desired_of(OLD), container(OLD), foreign=(other,))
    (web,) = result.services
    assert (result.phase, result.reason) == (A.SETTLED, "")
    assert web.reason.startswith("container debug carries the agent's labels")
    removed = status(desired_of(removed=True), network=None, foreign=(other,))
    assert (removed.phase, removed.reason) == (A.REMOVED, web.reason)
    both = status(desired_of(OLD, service("a")), container(OLD), container(service("a")), foreign=(other,))
    assert [named.reason != "" for named in both.services] == [True, False]


def test_foreign_containers_are_no_reason_for_a_service_that_starts() -> None:
    copies = tuple(ForeignContainer(name, name, str(ENV), name) for name in ("web", "gone"))
    result = status(desired_of(OLD), container(OLD), healthy=False, foreign=copies)
    (web,) = result.services
    assert (result.phase, result.reason, web.phase, web.reason) == (A.CONVERGING, "", S.STARTING, "")


def test_problem_of_a_service_comes_before_its_foreign_containers() -> None:
    copy = ForeignContainer("f1", "web-try", str(ENV), "web")
    memories = {
        ("web", desired_service(OLD).hash): NO_HISTORY.refused(FailureCause.REFUSED, "no", Now(999, 0), seed="")
    }
    (web,) = status(desired_of(OLD), memories=memories, foreign=(copy,)).services
    assert web.reason == "no"
