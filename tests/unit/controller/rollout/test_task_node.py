"""The release task's node: which one it is, and what happens when it goes."""

from __future__ import annotations

import pytest

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.model.actions import Precondition
from tests.unit.controller.builders import (
    KEYS,
    REF,
    app,
    migration,
    writes,
)
from tests.unit.controller.task_builders import (
    REDIS,
    REDIS_2,
    pinned,
    preparing_store,
    settled_store,
    task_phase,
)

# Which node


def test_node_that_answers_comes_before_one_that_does_not() -> None:
    store = settled_store()
    store.delete(KEYS.heartbeat("n1"))
    store.deploy(2, REDIS, app(2), task=migration())
    store.converge()
    assert store.task().node == "n2"


def test_first_unreachable_node_gets_task_and_rollout_waits_for_it() -> None:
    store = settled_store()
    store.delete(KEYS.heartbeat("n1"))
    store.delete(KEYS.heartbeat("n2"))
    store.deploy(2, REDIS, app(2), task=migration())
    store.converge()
    assert (store.task().node, store.phase()) == ("n1", "PROGRESSING")
    assert store.rollout().reason.startswith("n1 has no heartbeat")
    assert store.rollout().reason.endswith("the release task waits for it")


@pytest.mark.parametrize("obstacle", ["labels", "cordoned", "unreadable node", "unreadable assignment", "no node"])
def test_node_that_may_not_run_it_is_passed_over(obstacle: str) -> None:
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


def test_node_stays_same_when_another_one_would_come_first() -> None:
    store = settled_store()
    store.delete(KEYS.heartbeat("n1"))
    store.deploy(2, REDIS, app(2), task=migration())
    store.converge()
    store.add_node("n1", "web", "worker")
    store.converge()
    assert store.task().node == "n2"


def test_next_release_runs_its_task_where_one_before_has_not_ended() -> None:
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


def test_task_of_older_release_is_not_begun_where_newer_one_does_not_run() -> None:
    store = preparing_store()
    store.report_task("n1", "WAITING")
    store.add_node("n1", "web", "worker", cordoned=True)
    store.deploy(3, REDIS, app(3), task=migration())
    store.converge()
    assert store.task().node == "n2"
    left = store.assignment("n1")
    assert left is not None
    assert (left.release, left.HasField("task")) == (2, False)


def test_task_of_older_release_that_runs_is_left_to_end() -> None:
    store = preparing_store()
    store.report_task("n1", "RUNNING")
    store.add_node("n1", "web", "worker", cordoned=True)
    store.deploy(3, REDIS, app(3), task=migration())
    store.converge()
    left = store.assignment("n1")
    assert left is not None
    assert left.HasField("task")


def test_while_service_can_run_nowhere_task_is_not_begun() -> None:
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


def test_task_of_service_that_is_not_there_has_failed() -> None:
    store = settled_store()
    store.deploy(2, REDIS, app(2), task=migration(service="api"))
    store.converge()
    assert store.rollout().reason == (
        'the release task "release" failed: release 2 has no service "api" for it to run in; release 1 runs again'
    )
    assert pinned(store, "n1")["web"] == "app:1"


# A node that goes


@pytest.mark.parametrize("phase", ["WAITING", "RUNNING"])
@pytest.mark.parametrize(
    "loss", ["was detached", "is no longer registered", "was registered again, as another machine"]
)
def test_node_that_goes_before_its_task_has_ended_fails_it(loss: str, phase: str) -> None:
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
    assert Precondition(KEYS.node("n1"), revision) in store.plan().actions[0].rests_on
    store.converge()
    unknown = "while it was running there; its outcome is not known"
    known = "before it was known to have run there"
    assert store.rollout().halted == (
        f'the release task "release" failed on n1: n1 {loss} {unknown if phase == "RUNNING" else known}'
    )
    assert pinned(store, "n2")["web"] == "app:1"


def test_success_that_was_reported_before_node_went_counts() -> None:
    store = preparing_store()
    store.report_task("n1", "SUCCEEDED")
    store.set_environment("n2", latest=2)
    store.converge()
    assert task_phase(store) == "SUCCEEDED"
    assert pinned(store, "n2")["web"] == "app:2"


@pytest.mark.parametrize("loss", ["detached", "cordoned", "labels"])
def test_node_that_goes_before_it_was_told_of_task_is_replaced_by_another(loss: str) -> None:
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
    assert Precondition(seen.key, seen.mod_revision) in first.rests_on, "an old copy may not show that it was told"
    store.converge()
    assert (store.task().node, task_phase(store)) == ("n2", "WAITING")


def test_cordoned_task_node_finishes_task_and_keeps_assignment() -> None:
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


def test_label_change_on_task_node_waits_for_end_of_task() -> None:
    store = preparing_store()
    store.add_node("n1", "web")
    store.add_node("n2", "web", "worker")
    assert writes(store.step()) == []
    store.report_task("n1", "SUCCEEDED")
    store.converge()
    assert (store.assigned("n1"), store.assigned("n2")) == (["web"], ["redis", "web"])


def test_supporting_service_that_labels_add_is_there_before_task_begins() -> None:
    store = settled_store()
    store.add_node("n1", "web")
    store.add_node("n2", "worker")
    store.converge()
    store.deploy(2, REDIS_2, app(2), task=migration())
    store.converge()
    assert store.assigned("n1") == ["web"]
    store.add_node("n1", "web", "worker")
    store.converge()
    assert pinned(store, "n1") == {"redis": "redis:2", "web": "app:1"}


def test_node_attached_during_task_waits_and_detached_node_is_cleared() -> None:
    store = preparing_store()
    store.add_node("n3", "web")
    store.set_environment("n1", "n3", latest=2)
    store.converge()
    assert store.assignment("n3") is None
    assert store.progress("n3").phase == pb.NodeProgress.WAITING
    gone = store.assignment("n2")
    assert gone is not None
    assert gone.removed
