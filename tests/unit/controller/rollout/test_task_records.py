"""The release task's records: reports that do not count, the deadline, and what is read back when one is lost."""

from __future__ import annotations

from typing import Any

import pytest

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.model.actions import Precondition
from devopsellence.store.record import message_of
from tests.unit.controller.builders import (
    KEYS,
    REF,
    Store,
    app,
    migration,
    service_status,
    writes,
)
from tests.unit.controller.task_builders import (
    REDIS,
    REDIS_2,
    first_preparing_store,
    pinned,
    preparing_store,
    settled_store,
    task_phase,
)

# Reports that do not count


@pytest.mark.parametrize("stale", [{"generation": 1}, {"node_uid": "another"}])
def test_report_on_other_generation_or_machine_is_ignored(stale: dict[str, Any]) -> None:
    store = preparing_store()
    store.report("n1", **stale, task=pb.TaskStatus(name="release", release=2, phase=pb.TaskStatus.SUCCEEDED))
    store.converge()
    assert task_phase(store) == "WAITING"
    assert pinned(store, "n2")["web"] == "app:1"


def test_report_about_another_releases_task_or_without_phase_does_not_count() -> None:
    for task in (
        pb.TaskStatus(name="release", release=1, phase=pb.TaskStatus.SUCCEEDED),
        pb.TaskStatus(name="other", release=2, phase=pb.TaskStatus.SUCCEEDED),
        pb.TaskStatus(name="release", release=2),
    ):
        store = preparing_store()
        store.report("n1", task=task)
        store.converge()
        assert task_phase(store) == "WAITING"


def test_settled_status_before_task_has_ended_settles_nothing() -> None:
    store = preparing_store()
    store.report_task("n1", "WAITING")
    store.converge()
    assert store.phase() == "PROGRESSING"


def test_task_that_runs_does_not_wait_again() -> None:
    store = preparing_store()
    store.report_task("n1", "RUNNING")
    store.converge()
    store.report_task("n1", "WAITING")
    store.converge()
    assert task_phase(store) == "RUNNING"


# The deadline


def test_deadline_stands_still_while_task_runs_and_runs_while_it_waits() -> None:
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
    assert store.phase() == "ROLLING_BACK"


def test_task_that_waits_too_long_fails_rollout_with_what_it_waits_for() -> None:
    store = settled_store()
    store.deploy(2, REDIS_2, app(2), task=migration(), deadline=60)
    store.converge()
    store.report_task("n1", "WAITING", service_status("redis"), reason="waits for redis to be healthy: no answer")
    store.converge()
    store.seconds = 70
    store.step()
    assert store.rollout().halted == (
        "no progress within 60 s (progress_deadline): "
        "the release task waits on n1: waits for redis to be healthy: no answer"
    )


def silent_while_it_ran() -> Store:
    """The node of release 2's task has fallen silent while the task ran; the deadline has passed since."""
    store = settled_store()
    store.deploy(2, REDIS_2, app(2), task=migration(), deadline=60)
    store.converge()
    store.report_task("n1", "RUNNING")
    store.converge()
    store.seconds = 1000
    store.delete(KEYS.heartbeat("n1"))
    store.converge()
    assert store.phase() == "PROGRESSING"
    store.seconds = 1100
    store.converge()
    return store


def test_deadline_runs_while_task_node_is_unreachable() -> None:
    store = silent_while_it_ran()
    assert store.phase() == "FAILED", "n2, the only one that answers, is where it should be"
    assert store.rollout().reason.endswith(
        "; release 1 runs again, but n1 has no heartbeat: its agent is not running "
        "or cannot reach etcd; it is not waited for"
    )
    assert pinned(store, "n1") == {"redis": "app:1", "web": "app:1"}, "as soon as it can read it"


def test_late_success_of_task_after_rollback_is_ignored() -> None:
    store = silent_while_it_ran()
    store.add_node("n1", "web", "worker")
    store.report("n1", task=pb.TaskStatus(name="release", release=2, phase=pb.TaskStatus.SUCCEEDED))
    store.converge()
    assert (store.phase(), task_phase(store)) == ("FAILED", "FAILED")
    assert pinned(store, "n2")["web"] == "app:1"


def test_task_of_first_release_that_was_given_up_has_run_after_all() -> None:
    store = first_preparing_store()
    store.report_task("n1", "RUNNING")
    store.converge()
    store.delete(KEYS.heartbeat("n1"))
    store.converge()
    store.seconds = 700
    store.converge()
    assert store.phase() == "FAILED"
    store.add_node("n1", "web", "worker")
    store.report_task("n1", "SUCCEEDED")
    store.converge()
    assert store.phase() == "PROGRESSING"
    assert pinned(store, "n2")["web"] == "app:1"


# A record that is lost


@pytest.mark.parametrize("unreadable", [True, False])
def test_lost_record_is_read_back_from_who_has_task(unreadable: bool) -> None:
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


def test_lost_record_of_task_that_had_succeeded_does_not_begin_it_again() -> None:
    store = preparing_store()
    store.report_task("n1", "SUCCEEDED")
    store.converge()
    store.delete(KEYS.rollout(REF))
    store.converge()
    assert task_phase(store) == "SUCCEEDED"
    assert pinned(store, "n1")["web"] == "app:2"


def test_lost_record_of_succeeded_task_outweighs_outdated_report() -> None:
    store = preparing_store()
    store.report_task("n1", "RUNNING")
    outdated = message_of(store.records[KEYS.status("n1", REF)])
    assert outdated is not None
    store.report_task("n1", "SUCCEEDED")
    store.converge()
    store.report("n1")
    store.converge()
    assert pinned(store, "n2")["web"] == "app:2"
    store.put(KEYS.status("n1", REF), outdated)
    store.delete(KEYS.assignment("n1", REF))
    store.add_node("n1", "web", "worker", uid="another")
    store.delete(KEYS.rollout(REF))
    store.converge()
    assert task_phase(store) == "SUCCEEDED"


def test_lost_record_and_lost_assignment_are_read_back_from_report() -> None:
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


def test_task_with_unknown_outcome_has_failed() -> None:
    store = preparing_store()
    store.garbage(KEYS.rollout(REF))
    store.garbage(KEYS.assignment("n1", REF))
    store.converge()
    assert "whether it has run cannot be told" in store.rollout().reason
    assert pinned(store, "n2")["web"] == "app:1"


def test_unreadable_assignment_of_task_node_is_left_alone() -> None:
    store = preparing_store()
    store.garbage(KEYS.assignment("n1", REF))
    assert writes(store.step()) == []
    assert store.progress("n1").phase == pb.NodeProgress.ERROR
    assert KEYS.assignment("n1", REF) in store.rollout().reason


def test_unreadable_release_leaves_its_task_as_it_was_known() -> None:
    store = preparing_store()
    store.report_task("n1", "RUNNING")
    store.converge()
    store.garbage(KEYS.release(REF, 2))
    store.converge()
    assert task_phase(store) == "RUNNING"
    assert pinned(store, "n2")["web"] == "app:1"


def test_decisions_from_record_compare_its_revision() -> None:
    store = preparing_store()
    store.report_task("n1", "SUCCEEDED")
    store.step(only=1)
    record = store.records[KEYS.rollout(REF)]
    moving = writes(store.plan())
    assert [action.node for action in moving] == ["n1", "n2"]
    assert all(Precondition(record.key, record.mod_revision) in action.rests_on for action in moving)


def test_choice_without_record_rests_on_no_node_having_been_told() -> None:
    store = settled_store()
    store.delete(KEYS.rollout(REF))
    store.deploy(2, REDIS, app(2), task=migration())
    first = store.plan().actions[0]
    for name in ("n1", "n2"):
        seen = store.records[KEYS.assignment(name, REF)]
        assert Precondition(seen.key, seen.mod_revision) in first.rests_on
