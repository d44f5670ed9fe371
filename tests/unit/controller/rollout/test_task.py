"""The release task: what waits for it, and how it ends, wherever the controller dies."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.model.actions import WriteKind
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
from tests.unit.controller.task_builders import (
    REDIS_2,
    first_preparing_store,
    pinned,
    preparing_store,
    settled_store,
    task_phase,
)

# Before it has succeeded


def test_task_node_gets_supporting_services_and_task_first() -> None:
    store = settled_store()
    store.deploy(2, REDIS_2, app(2), task=migration())
    planned = store.step()
    assert kinds(planned) == [WriteKind.WRITE_ROLLOUT, WriteKind.WRITE_ASSIGNMENT], "the record comes first"
    assert writes(planned)[0].reason == "release 2 begins with its release task, release, here; beside it: redis, web"
    assignment = store.assignment("n1")
    assert assignment is not None
    assert (assignment.release, assignment.generation, assignment.revision) == (2, 2, "rev2")
    assert pinned(store, "n1") == {"redis": "redis:2", "web": "app:1"}
    assert assignment.task == migration()
    assert assignment.task_service == app(2)
    assert pinned(store, "n2") == {"redis": "app:1", "web": "app:1"}
    assert not store.plan().actions
    assert (store.task().node, task_phase(store)) == ("n1", "WAITING")


def test_first_release_of_all_gives_tasks_node_supporting_services_alone() -> None:
    store = first_preparing_store()
    assert store.assigned("n1") == ["redis"]
    assert store.assignment("n2") is None


def test_reason_says_what_task_waits_for_and_other_nodes_wait_for_it() -> None:
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
    assert (waiting.phase, waiting.reason) == (pb.NodeProgress.WAITING, "n2 waits for the release task on n1")
    assert waiting.services_settled == 0


def test_successful_task_moves_all_nodes() -> None:
    store = preparing_store()
    store.report_task("n1", "RUNNING")
    store.converge()
    assert store.rollout().reason == 'the release task "release" is running on n1'
    store.report_task("n1", "SUCCEEDED", code=0)
    store.converge()
    for name in ("n1", "n2"):
        assignment = store.assignment(name)
        assert assignment is not None
        assert (assignment.release, assignment.HasField("task"), assignment.HasField("task_service")) == (
            2,
            False,
            False,
        )
        assert pinned(store, name) == {"redis": "redis:2", "web": "app:2"}
    assert store.phase() == "PROGRESSING"
    store.report("n1")
    store.report("n2")
    store.converge()
    assert store.phase() == "SETTLED"
    assert (task_phase(store), store.task().node, store.task().exit.code) == ("SUCCEEDED", "n1", 0)
    told = [event.code for event in store.events if event.release == 2]
    assert told == [
        "rollout_started",
        "assignment_written",
        "release_task_started",
        "release_task_succeeded",
        "assignment_written",
        "assignment_written",
        "rollout_settled",
    ]


def test_failed_task_rolls_back_with_exit_code_and_log_lines() -> None:
    store = preparing_store()
    store.report_task("n1", "RUNNING")
    store.converge()
    store.report_task(
        "n1", "FAILED", reason="ended by itself", code=3, lines=["one", "two", "", "three", "no such table"]
    )
    store.converge()
    reason = (
        'the release task "release" failed on n1: ended by itself (exit code 3); '
        "its last lines: two | three | no such table"
    )
    assert (store.phase(), store.rollout().target, store.rollout().halted) == ("ROLLING_BACK", 1, reason)
    assert (
        store.rollout().reason == f"{reason}; back to release 1: n1 has not yet reported generation 3 of its assignment"
    )
    for name in ("n1", "n2"):
        assignment = store.assignment(name)
        assert assignment is not None
        assert (assignment.release, assignment.HasField("task"), assignment.HasField("task_service")) == (
            1,
            False,
            False,
        )
        assert pinned(store, name) == {"redis": "app:1", "web": "app:1"}, "the supporting services as well"
    store.report("n1")
    store.converge()
    assert (store.phase(), store.rollout().reason) == ("FAILED", f"{reason}; release 1 runs again")
    assert (task_phase(store), store.task().release) == ("FAILED", 2)
    failed = [event for event in store.events if event.code == "release_task_failed"]
    assert [(one.node, one.severity) for one in failed] == [("n1", pb.Event.ERROR)]


def test_first_release_whose_task_fails_leaves_everything_as_it_is() -> None:
    store = first_preparing_store()
    store.report_task("n1", "FAILED", reason="ended by itself", code=3)
    store.converge()
    assert (store.phase(), store.rollout().target) == ("FAILED", 1)
    assert store.progress("n1").phase == pb.NodeProgress.FAILED
    waiting = store.progress("n2")
    assert (waiting.phase, waiting.reason) == (
        pb.NodeProgress.WAITING,
        "n2 gets nothing: the release task of release 1 failed",
    )
    assert pinned(store, "n1") == {"redis": "app:1"}


def test_release_that_halts_when_its_task_fails_moves_no_node() -> None:
    store = settled_store()
    store.deploy(2, REDIS_2, app(2), task=migration(), halt=True)
    store.converge()
    store.report_task("n1", "FAILED", reason="ended by itself", code=3)
    store.converge()
    assert (store.phase(), store.rollout().target) == ("FAILED", 2)
    assert store.rollout().reason == store.rollout().halted
    assert store.progress("n2").reason == "n2 keeps release 1: release 2 has been halted"
    assert pinned(store, "n2") == {"redis": "app:1", "web": "app:1"}
    assert pinned(store, "n1") == {"redis": "redis:2", "web": "app:1"}


def test_task_that_has_failed_is_never_retried_but_next_release_has_its_own() -> None:
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


def test_release_without_task_after_one_that_failed_reaches_everybody() -> None:
    store = preparing_store()
    store.report_task("n1", "FAILED", code=1)
    store.converge()
    store.deploy(3, REDIS_2, app(3))
    store.converge()
    assert not store.rollout().HasField("task")
    for name in ("n1", "n2"):
        assert pinned(store, name) == {"redis": "redis:2", "web": "app:3"}


# Which services wait


def test_dependents_of_app_wait_for_task_and_removed_services_stay() -> None:
    store = settled_store()
    proxy = service("proxy", after=["web"])
    store.deploy(2, proxy, app(2), service("cache", "worker", after=["other"]), task=migration())
    store.converge()
    assert store.assigned("n1") == ["cache", "redis", "web"]
    store.report_task("n1", "SUCCEEDED")
    store.converge()
    assert store.assigned("n1") == ["cache", "proxy", "web"]


def test_former_app_services_are_kept_during_task() -> None:
    store = settled_store()
    store.deploy(2, app(2, "redis", "worker"), service("web", image="nginx"), task=migration(service="redis"))
    store.converge()
    assert pinned(store, "n1") == {"redis": "app:1", "web": "app:1"}


def test_machine_that_is_new_keeps_nothing_of_what_one_before_it_ran() -> None:
    store = settled_store()
    store.add_node("n1", "web", "worker", uid="another")
    store.deploy(2, REDIS_2, app(2), task=migration())
    store.converge()
    assert pinned(store, "n1") == {"redis": "redis:2"}


def test_old_service_that_has_failed_does_not_fail_release_that_replaces_it() -> None:
    store = preparing_store()
    store.report_task("n1", "WAITING", crashed("web", failed=True), service_status("redis"))
    store.converge()
    assert store.phase() == "PROGRESSING"
    store.report_task("n1", "WAITING", crashed("redis", failed=True), service_status("web"))
    store.converge()
    assert store.phase() == "ROLLING_BACK"
    assert store.rollout().halted == (
        'the release task cannot begin: service "redis" on n1: ended by itself (exit code 1)'
    )
    assert (task_phase(store), store.task().reason) == ("FAILED", "it had not ended when the release failed")


def test_failed_first_rollout_resumes_when_task_starts() -> None:
    store = first_preparing_store()
    store.report_task("n1", "WAITING", crashed("redis", failed=True))
    store.converge()
    assert store.phase() == "FAILED"
    store.report_task("n1", "RUNNING")
    store.converge()
    assert store.phase() == "PROGRESSING"


def test_unstarted_task_of_halted_release_never_starts() -> None:
    store = settled_store()
    store.deploy(2, REDIS_2, app(2), task=migration(), halt=True)
    store.converge()
    store.report_task("n1", "WAITING", crashed("redis", failed=True))
    store.converge()
    assert (store.phase(), task_phase(store)) == ("FAILED", "FAILED")
    left = store.assignment("n1")
    assert left is not None
    assert (left.release, left.HasField("task"), left.HasField("task_service")) == (2, False, True)
    assert not store.plan().actions
    store.delete(KEYS.rollout(REF))
    store.converge()
    assert task_phase(store) == "FAILED", "also without the record"


def test_running_task_of_halted_release_may_end() -> None:
    store = settled_store()
    store.deploy(2, REDIS_2, app(2), task=migration(), halt=True, deadline=60)
    store.converge()
    store.report_task("n1", "RUNNING")
    store.converge()
    store.delete(KEYS.heartbeat("n1"))
    store.converge()
    store.seconds = 60
    store.converge()
    assert (store.phase(), task_phase(store)) == ("FAILED", "FAILED")
    store.add_node("n1", "web", "worker")
    store.report_task("n1", "SUCCEEDED")
    store.converge()
    assert (store.phase(), task_phase(store)) == ("FAILED", "FAILED")
    assert pinned(store, "n2") == {"redis": "app:1", "web": "app:1"}


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
def test_after_any_controller_crash_next_one_goes_on_to_same_end(turn: int, written: int) -> None:
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
    assert [outcome.release for outcome in store.rollout().history] == [1]
