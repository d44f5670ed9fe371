"""The release task, case by case: where it runs, what waits for it, and how it ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.actions import Basis, Kind
from tests.unit.controller.builders import (
    KEYS,
    REF,
    Store,
    app,
    crashed,
    kinds,
    migration,
    service,
    service_status,
    writes,
)

REDIS = service("redis", "worker")
REDIS_2 = service("redis", "worker", "redis:2")


def settled_store(*more: str) -> Store:
    """n1 and n2 (and ``more``), all web and worker, have settled at release 1 of web and redis, without a task."""
    store = Store()
    names = ("n1", "n2", *more)
    for name in names:
        store.add_node(name, "web", "worker")
    store.set_environment(*names)
    store.deploy(1, REDIS, app(1))
    store.converge()
    for name in names:
        store.report(name)
    store.converge()
    return store


def preparing_store(*more: str) -> Store:
    """Release 2, with another redis, another app and a task, has just been planned."""
    store = settled_store(*more)
    store.deploy(2, REDIS_2, app(2), task=migration())
    store.converge()
    return store


def pinned(store: Store, name: str) -> dict[str, str]:
    found = store.assignment(name)
    assert found is not None
    return {one.name: one.image.pinned.removeprefix("sha256:") for one in found.services}


def task_phase(store: Store) -> str:
    return pb.TaskStatus.Phase.Name(store.task().phase)


# Before it has succeeded


def test_the_first_node_gets_the_supporting_services_and_the_task_and_keeps_its_app_and_nobody_else_moves() -> None:
    store = settled_store()
    store.deploy(2, REDIS_2, app(2), task=migration())
    made = store.step()
    assert kinds(made) == [Kind.WRITE_ROLLOUT, Kind.WRITE_ASSIGNMENT], "the record comes first"
    assert writes(made)[0].reason == "release 2 begins with its release task, release, here; beside it: redis, web"
    found = store.assignment("n1")
    assert found is not None
    assert (found.release, found.generation, found.revision) == (2, 2, "rev2")
    assert pinned(store, "n1") == {"redis": "redis:2", "web": "app:1"}
    assert found.task == migration()
    assert found.task_service == app(2)
    assert pinned(store, "n2") == {"redis": "app:1", "web": "app:1"}
    assert not store.plan().actions
    assert (store.task().node, task_phase(store)) == ("n1", "WAITING")


def test_the_first_release_of_all_gives_the_tasks_node_the_supporting_services_alone() -> None:
    store = Store()
    for name in ("n1", "n2"):
        store.add_node(name, "web", "worker")
    store.set_environment("n1", "n2")
    store.deploy(1, REDIS, app(1), task=migration())
    store.converge()
    assert store.assigned("n1") == ["redis"]
    assert store.assignment("n2") is None


def test_the_reason_says_what_the_task_waits_for_and_the_other_nodes_wait_for_it() -> None:
    store = preparing_store()
    assert store.rollout().reason == (
        "the release task waits on n1: it has not yet reported generation 2 of its assignment"
    )
    why = "waits for redis to be healthy: not healthy yet"
    store.report_task("n1", "WAITING", service_status("redis", health=pb.ServiceStatus.CHECKING), reason=why)
    store.converge()
    assert store.phase() == "PROGRESSING"
    assert store.rollout().reason == f"the release task waits on n1: {why}"
    assert store.progress("n1").phase == pb.NodeProgress.CONVERGING
    waiting = store.progress("n2")
    assert (waiting.phase, waiting.reason) == (pb.NodeProgress.PENDING, "n2 waits for the release task on n1")
    assert waiting.services_settled == 0


def test_it_runs_succeeds_and_everybody_moves() -> None:
    store = preparing_store()
    store.report_task("n1", "RUNNING")
    store.converge()
    assert store.rollout().reason == 'the release task "release" is running on n1'
    store.report_task("n1", "SUCCEEDED", code=0)
    store.converge()
    for name in ("n1", "n2"):
        found = store.assignment(name)
        assert found is not None
        assert (found.release, found.HasField("task"), found.HasField("task_service")) == (2, False, False)
        assert pinned(store, name) == {"redis": "redis:2", "web": "app:2"}
    assert store.phase() == "PROGRESSING"
    store.report("n1")
    store.report("n2")
    store.converge()
    assert store.phase() == "SETTLED"
    assert (task_phase(store), store.task().node, store.task().exit.code) == ("SUCCEEDED", "n1", 0)
    told = [one.code for one in store.events if one.release == 2]
    assert told == [
        "rollout_started",
        "assignment_written",
        "release_task_started",
        "release_task_succeeded",
        "assignment_written",
        "assignment_written",
        "rollout_settled",
    ]


def test_it_failed_so_nobody_moves_and_the_reason_has_the_exit_code_and_the_last_lines() -> None:
    store = preparing_store()
    store.report_task("n1", "RUNNING")
    store.converge()
    store.report_task(
        "n1", "FAILED", reason="ended by itself", code=3, lines=["one", "two", "", "three", "no such table"]
    )
    store.converge()
    assert store.phase() == "FAILED"
    reason = (
        'the release task "release" failed on n1: ended by itself (exit code 3); '
        "its last lines: two | three | no such table"
    )
    assert store.rollout().reason == reason
    assert store.progress("n1").phase == pb.NodeProgress.FAILED
    assert store.progress("n2").phase == pb.NodeProgress.SETTLED
    assert store.progress("n2").reason == "n2 keeps release 1: the release task of release 2 failed"
    assert pinned(store, "n2") == {"redis": "app:1", "web": "app:1"}
    assert pinned(store, "n1") == {"redis": "redis:2", "web": "app:1"}
    failed = [one for one in store.events if one.code == "release_task_failed"]
    assert [(one.node, one.severity) for one in failed] == [("n1", pb.Event.ERROR)]


def test_a_task_that_has_failed_is_never_tried_again_but_the_next_release_has_its_own() -> None:
    store = preparing_store()
    store.report_task("n1", "FAILED", code=1)
    store.converge()
    store.report_task("n1", "SUCCEEDED", code=0)
    store.converge()
    assert (store.phase(), task_phase(store)) == ("FAILED", "FAILED")
    store.deploy(3, REDIS_2, app(3), task=migration())
    store.converge()
    assert (task_phase(store), store.task().release) == ("WAITING", 3)
    assert pinned(store, "n1") == {"redis": "redis:2", "web": "app:1"}


def test_a_release_without_a_task_after_one_that_failed_reaches_everybody() -> None:
    store = preparing_store()
    store.report_task("n1", "FAILED", code=1)
    store.converge()
    store.deploy(3, REDIS_2, app(3))
    store.converge()
    assert not store.rollout().HasField("task")
    for name in ("n1", "n2"):
        assert pinned(store, name) == {"redis": "redis:2", "web": "app:3"}


# Which services wait


def test_a_service_that_depends_on_the_app_waits_with_it_and_one_that_has_left_stays_until_then() -> None:
    store = settled_store()
    proxy = service("proxy", after=["web"])
    store.deploy(2, proxy, app(2), service("cache", "worker", after=["other"]), task=migration())
    store.converge()
    assert store.assigned("n1") == ["cache", "redis", "web"]
    store.report_task("n1", "SUCCEEDED")
    store.converge()
    assert store.assigned("n1") == ["cache", "proxy", "web"]


def test_what_ran_the_app_before_is_kept_also_where_it_has_an_image_of_its_own_now() -> None:
    store = settled_store()
    store.deploy(2, app(2, "redis", "worker"), service("web", image="nginx"), task=migration(service="redis"))
    store.converge()
    assert pinned(store, "n1") == {"redis": "app:1", "web": "app:1"}


def test_a_machine_that_is_new_keeps_nothing_of_what_the_one_before_it_ran() -> None:
    store = settled_store()
    store.add_node("n1", "web", "worker", uid="another")
    store.deploy(2, REDIS_2, app(2), task=migration())
    store.converge()
    assert pinned(store, "n1") == {"redis": "redis:2"}


def test_an_old_service_that_has_failed_does_not_fail_the_release_that_replaces_it() -> None:
    store = preparing_store()
    store.report_task("n1", "WAITING", crashed("web", failed=True), service_status("redis"))
    store.converge()
    assert store.phase() == "PROGRESSING"
    store.report_task("n1", "WAITING", crashed("redis", failed=True), service_status("web"))
    store.converge()
    assert store.phase() == "FAILED"
    assert store.rollout().reason == (
        'the release task cannot begin: service "redis" on n1: ended by itself (exit code 1)'
    )


def test_a_rollout_that_failed_before_its_task_began_goes_on_when_the_task_does() -> None:
    store = preparing_store()
    store.report_task("n1", "WAITING", crashed("redis", failed=True))
    store.converge()
    store.report_task("n1", "RUNNING")
    store.converge()
    assert store.phase() == "PROGRESSING"


# Which node


def test_a_node_that_answers_comes_before_one_that_does_not() -> None:
    store = settled_store()
    store.delete(KEYS.heartbeat("n1"))
    store.deploy(2, REDIS, app(2), task=migration())
    store.converge()
    assert store.task().node == "n2"


def test_if_none_answers_it_is_the_first_and_the_rollout_waits_for_it() -> None:
    store = settled_store()
    store.delete(KEYS.heartbeat("n1"))
    store.delete(KEYS.heartbeat("n2"))
    store.deploy(2, REDIS, app(2), task=migration())
    store.converge()
    assert (store.task().node, store.phase()) == ("n1", "PROGRESSING")
    assert store.rollout().reason.startswith("n1 has no heartbeat")
    assert store.rollout().reason.endswith("the release task waits for it")


@pytest.mark.parametrize("obstacle", ["labels", "cordoned", "unreadable node", "unreadable assignment", "no node"])
def test_a_node_that_may_not_run_it_is_passed_over(obstacle: str) -> None:
    store = settled_store()
    if obstacle == "labels":
        store.add_node("n1", "worker")
    elif obstacle == "cordoned":
        store.add_node("n1", "web", "worker", cordoned=True)
    elif obstacle == "unreadable node":
        store.garbage(KEYS.node("n1"))
    elif obstacle == "unreadable assignment":
        store.garbage(KEYS.assignment("n1", REF))
    else:
        store.delete(KEYS.node("n1"))
    store.deploy(2, REDIS, app(2), task=migration())
    store.converge()
    assert store.task().node == "n2"


def test_the_node_stays_the_same_when_another_one_would_come_first() -> None:
    store = settled_store()
    store.delete(KEYS.heartbeat("n1"))
    store.deploy(2, REDIS, app(2), task=migration())
    store.converge()
    store.add_node("n1", "web", "worker")
    store.converge()
    assert store.task().node == "n2"


def test_the_next_release_runs_its_task_where_the_one_before_has_not_ended() -> None:
    store = settled_store()
    store.delete(KEYS.heartbeat("n1"))
    store.deploy(2, REDIS, app(2), task=migration())
    store.converge()
    store.report_task("n2", "RUNNING")
    store.converge()
    store.add_node("n1", "web", "worker")
    store.deploy(3, REDIS, app(3), task=migration())
    store.converge()
    assert (store.task().node, store.task().release) == ("n2", 3)
    assert pinned(store, "n2")["web"] == "app:1", "what ran before release 2 still runs"


def test_the_task_of_an_older_release_is_not_begun_where_the_newer_one_does_not_run() -> None:
    store = preparing_store()
    store.report_task("n1", "WAITING")
    store.add_node("n1", "web", "worker", cordoned=True)
    store.deploy(3, REDIS, app(3), task=migration())
    store.converge()
    assert store.task().node == "n2"
    left = store.assignment("n1")
    assert left is not None
    assert (left.release, left.HasField("task")) == (2, False)


def test_the_task_of_an_older_release_that_runs_is_left_to_end() -> None:
    store = preparing_store()
    store.report_task("n1", "RUNNING")
    store.add_node("n1", "web", "worker", cordoned=True)
    store.deploy(3, REDIS, app(3), task=migration())
    store.converge()
    left = store.assignment("n1")
    assert left is not None
    assert left.HasField("task")


def test_while_a_service_can_run_nowhere_the_task_is_not_begun() -> None:
    store = settled_store()
    for name in ("n1", "n2"):
        store.add_node(name, "web")
    store.deploy(2, REDIS, app(2), task=migration())
    store.converge()
    assert (store.phase(), store.task().node, task_phase(store)) == ("FAILED", "", "WAITING")
    assert 'no attached node is labelled "worker"' in store.rollout().reason
    assert store.assigned("n1") == ["redis", "web"], "nobody moves"
    store.add_node("n1", "web", "worker")
    store.converge()
    assert (store.phase(), store.task().node) == ("PROGRESSING", "n1")


def test_a_task_of_a_service_that_is_not_there_has_failed() -> None:
    store = settled_store()
    store.deploy(2, REDIS, app(2), task=migration(service="api"))
    store.converge()
    assert store.rollout().reason == (
        'the release task "release" failed: release 2 has no service "api" for it to run in'
    )
    assert pinned(store, "n1")["web"] == "app:1"


# A node that goes


@pytest.mark.parametrize("phase", ["WAITING", "RUNNING"])
@pytest.mark.parametrize("loss", ["was detached", "is no longer registered", "was registered anew, as another machine"])
def test_a_node_that_goes_before_its_task_has_ended_fails_it(loss: str, phase: str) -> None:
    store = preparing_store()
    store.report_task("n1", phase)
    store.converge()
    if loss == "was detached":
        store.set_environment("n2", latest=2)
    elif loss == "is no longer registered":
        store.delete(KEYS.node("n1"))
    else:
        store.add_node("n1", "web", "worker", uid="another")
    revision = store.records[KEYS.node("n1")].mod_revision if KEYS.node("n1") in store.records else 0
    assert Basis(KEYS.node("n1"), revision) in store.plan().actions[0].rests_on
    store.converge()
    unknown = "while it was running there; its outcome is not known"
    known = "before it was known to have run there"
    assert store.rollout().reason == (
        f'the release task "release" failed on n1: n1 {loss} {unknown if phase == "RUNNING" else known}'
    )
    assert pinned(store, "n2")["web"] == "app:1"


def test_a_success_that_was_reported_before_the_node_went_counts() -> None:
    store = preparing_store()
    store.report_task("n1", "SUCCEEDED")
    store.set_environment("n2", latest=2)
    store.converge()
    assert task_phase(store) == "SUCCEEDED"
    assert pinned(store, "n2")["web"] == "app:2"


@pytest.mark.parametrize("loss", ["detached", "cordoned", "labels"])
def test_a_node_that_goes_before_it_was_told_of_the_task_is_replaced_by_another(loss: str) -> None:
    store = settled_store()
    store.deploy(2, REDIS, app(2), task=migration())
    store.step(only=1)
    assert store.task().node == "n1"
    if loss == "detached":
        store.set_environment("n2", latest=2)
    elif loss == "cordoned":
        store.add_node("n1", "web", "worker", cordoned=True)
    else:
        store.add_node("n1", "worker")
    first = store.plan().actions[0]
    seen = store.records[KEYS.assignment("n1", REF)]
    assert Basis(seen.key, seen.mod_revision) in first.rests_on, "an old copy may not show that it was told"
    store.converge()
    assert (store.task().node, task_phase(store)) == ("n2", "WAITING")


def test_a_node_that_is_cordoned_while_it_has_the_task_runs_it_and_keeps_what_it_has_afterwards() -> None:
    store = preparing_store()
    store.add_node("n1", "web", "worker", cordoned=True)
    store.converge()
    store.report_task("n1", "SUCCEEDED")
    store.converge()
    assert task_phase(store) == "SUCCEEDED"
    assert pinned(store, "n1")["web"] == "app:1"
    assert pinned(store, "n2")["web"] == "app:2"
    store.report("n2")
    store.converge()
    assert store.phase() == "SETTLED"
    assert "n1 is cordoned and keeps what ran beside the release task" in store.rollout().reason


def test_a_node_whose_labels_change_while_it_has_the_task_keeps_all_it_has_until_the_task_has_ended() -> None:
    store = preparing_store()
    store.add_node("n1", "web")
    store.add_node("n2", "web", "worker")
    assert writes(store.step()) == []
    store.report_task("n1", "SUCCEEDED")
    store.converge()
    assert (store.assigned("n1"), store.assigned("n2")) == (["web"], ["redis", "web"])


def test_a_supporting_service_that_the_labels_add_is_there_before_the_task_begins() -> None:
    store = settled_store()
    store.add_node("n1", "web")
    store.converge()
    store.deploy(2, REDIS_2, app(2), task=migration())
    store.converge()
    assert store.assigned("n1") == ["web"]
    store.add_node("n1", "web", "worker")
    store.converge()
    assert pinned(store, "n1") == {"redis": "redis:2", "web": "app:1"}


def test_a_node_that_is_attached_while_the_task_runs_waits_and_a_detached_one_is_cleared() -> None:
    store = preparing_store()
    store.add_node("n3", "web")
    store.set_environment("n1", "n3", latest=2)
    store.converge()
    assert store.assignment("n3") is None
    assert store.progress("n3").phase == pb.NodeProgress.PENDING
    gone = store.assignment("n2")
    assert gone is not None
    assert gone.removed


# Reports that do not count


@pytest.mark.parametrize("stale", [{"generation": 1}, {"node_uid": "another"}])
def test_a_report_about_another_generation_or_by_another_machine_does_not_count(stale: dict[str, Any]) -> None:
    store = preparing_store()
    store.report("n1", **stale, task=pb.TaskStatus(name="release", release=2, phase=pb.TaskStatus.SUCCEEDED))
    store.converge()
    assert task_phase(store) == "WAITING"
    assert pinned(store, "n2")["web"] == "app:1"


def test_a_report_about_another_releases_task_or_without_a_phase_does_not_count() -> None:
    for task in (
        pb.TaskStatus(name="release", release=1, phase=pb.TaskStatus.SUCCEEDED),
        pb.TaskStatus(name="other", release=2, phase=pb.TaskStatus.SUCCEEDED),
        pb.TaskStatus(name="release", release=2),
    ):
        store = preparing_store()
        store.report("n1", task=task)
        store.converge()
        assert task_phase(store) == "WAITING"


def test_a_settled_status_before_the_task_has_ended_settles_nothing() -> None:
    store = preparing_store()
    store.report_task("n1", "WAITING")
    store.converge()
    assert store.phase() == "PROGRESSING"


def test_a_task_that_runs_does_not_wait_again() -> None:
    store = preparing_store()
    store.report_task("n1", "RUNNING")
    store.converge()
    store.report_task("n1", "WAITING")
    store.converge()
    assert task_phase(store) == "RUNNING"


# The deadline


def test_the_deadline_stands_still_while_the_task_runs_and_runs_while_it_waits() -> None:
    store = settled_store()
    store.deploy(2, REDIS_2, app(2), task=migration(), deadline=60)
    store.converge()
    store.seconds = 50
    store.report_task("n1", "RUNNING")
    store.converge()
    store.seconds = 5000
    assert store.step().recheck_after is None
    assert store.phase() == "PROGRESSING"
    store.report_task("n1", "SUCCEEDED")
    store.converge()
    store.seconds = 5059
    store.step()
    assert store.phase() == "PROGRESSING"
    store.seconds = 5060
    store.step()
    assert store.phase() == "FAILED"


def test_a_task_that_waits_too_long_fails_the_rollout_with_what_it_waits_for() -> None:
    store = settled_store()
    store.deploy(2, REDIS_2, app(2), task=migration(), deadline=60)
    store.converge()
    store.report_task("n1", "WAITING", service_status("redis"), reason="waits for redis to be healthy: no answer")
    store.converge()
    store.seconds = 70
    store.step()
    assert store.rollout().reason == (
        "no progress within 60 s (progress_deadline): "
        "the release task waits on n1: waits for redis to be healthy: no answer"
    )


def test_the_deadline_runs_again_when_the_node_of_a_running_task_has_fallen_silent() -> None:
    store = settled_store()
    store.deploy(2, REDIS_2, app(2), task=migration(), deadline=60)
    store.converge()
    store.report_task("n1", "RUNNING")
    store.converge()
    store.seconds = 1000
    store.delete(KEYS.heartbeat("n1"))
    store.converge()
    store.seconds = 1100
    store.step()
    assert store.phase() == "FAILED"
    store.add_node("n1", "web", "worker")
    store.report_task("n1", "SUCCEEDED")
    store.converge()
    assert store.phase() == "PROGRESSING", "it has run after all"


# A record that is lost


@pytest.mark.parametrize("unreadable", [True, False])
def test_a_lost_record_is_read_back_from_who_has_the_task(unreadable: bool) -> None:
    store = settled_store()
    store.delete(KEYS.heartbeat("n1"))
    store.deploy(2, REDIS, app(2), task=migration())
    store.converge()
    store.add_node("n1", "web", "worker")
    if unreadable:
        store.garbage(KEYS.rollout(REF))
    else:
        store.delete(KEYS.rollout(REF))
    store.converge()
    assert (store.task().node, task_phase(store)) == ("n2", "WAITING")


def test_a_lost_record_of_a_task_that_had_succeeded_does_not_begin_it_again() -> None:
    store = preparing_store()
    store.report_task("n1", "SUCCEEDED")
    store.converge()
    store.delete(KEYS.rollout(REF))
    store.converge()
    assert task_phase(store) == "SUCCEEDED"
    assert pinned(store, "n1")["web"] == "app:2"


def test_a_lost_record_and_a_lost_assignment_are_read_back_from_the_report() -> None:
    store = settled_store()
    store.delete(KEYS.heartbeat("n1"))
    store.deploy(2, REDIS, app(2), task=migration())
    store.converge()
    store.add_node("n1", "web", "worker")
    store.report_task("n2", "RUNNING")
    store.delete(KEYS.rollout(REF))
    store.delete(KEYS.assignment("n2", REF))
    store.converge()
    assert (store.task().node, task_phase(store)) == ("n2", "RUNNING")


def test_if_it_cannot_be_known_whether_the_task_has_run_it_has_failed() -> None:
    store = preparing_store()
    store.garbage(KEYS.rollout(REF))
    store.garbage(KEYS.assignment("n1", REF))
    store.converge()
    assert "whether it has run cannot be told" in store.rollout().reason
    assert pinned(store, "n2")["web"] == "app:1"


def test_an_unreadable_assignment_of_the_tasks_node_is_left_alone_because_what_it_runs_is_not_known() -> None:
    store = preparing_store()
    store.garbage(KEYS.assignment("n1", REF))
    assert writes(store.step()) == []
    assert store.progress("n1").phase == pb.NodeProgress.ERROR
    assert KEYS.assignment("n1", REF) in store.rollout().reason


def test_an_unreadable_release_leaves_its_task_as_it_was_known() -> None:
    store = preparing_store()
    store.report_task("n1", "RUNNING")
    store.converge()
    store.garbage(KEYS.release(REF, 2))
    store.converge()
    assert task_phase(store) == "RUNNING"
    assert pinned(store, "n2")["web"] == "app:1"


def test_what_follows_from_the_record_rests_on_it() -> None:
    store = preparing_store()
    store.report_task("n1", "SUCCEEDED")
    store.step(only=1)
    record = store.records[KEYS.rollout(REF)]
    moving = writes(store.plan())
    assert [action.node for action in moving] == ["n1", "n2"]
    assert all(Basis(record.key, record.mod_revision) in action.rests_on for action in moving)


def test_a_choice_without_a_record_rests_on_nobody_having_been_told() -> None:
    store = settled_store()
    store.delete(KEYS.rollout(REF))
    store.deploy(2, REDIS, app(2), task=migration())
    first = store.plan().actions[0]
    for name in ("n1", "n2"):
        seen = store.records[KEYS.assignment(name, REF)]
        assert Basis(seen.key, seen.mod_revision) in first.rests_on


# A controller that dies


def story(store: Store, step: Callable[[], None]) -> dict[str, dict[str, str]]:
    """A release from its beginning to its end; ``step`` is the controller's turn."""
    store.deploy(2, REDIS_2, app(2), task=migration())
    for phase in ("WAITING", "RUNNING", "SUCCEEDED"):
        step()
        store.report_task("n1", phase)
    step()
    for name in ("n1", "n2"):
        store.report(name)
    step()
    return {name: pinned(store, name) for name in ("n1", "n2")}


@pytest.mark.parametrize("turn", range(5))
@pytest.mark.parametrize("written", range(4))
def test_wherever_the_controller_dies_the_next_one_goes_on_to_the_same_end(turn: int, written: int) -> None:
    whole = settled_store()
    expected = story(whole, whole.converge)
    store = settled_store()
    turns = iter(range(5))

    def step() -> None:
        if next(turns) == turn:
            store.step(only=written)
            store.stopwatch = None
        store.converge()

    assert story(store, step) == expected
    assert (store.phase(), task_phase(store)) == ("SETTLED", "SUCCEEDED")
    assert [one.release for one in store.rollout().history] == [1]
