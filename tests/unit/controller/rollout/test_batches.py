"""Rollouts in batches over time."""

from __future__ import annotations

import pytest

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.model.actions import Precondition
from devopsellence.controller.reconcile.transactions import transactions
from devopsellence.controller.rollout.status import MAX_NODES
from devopsellence.store.etcd import MAX_OPERATIONS
from tests.unit.controller.batch_builders import (
    at,
    become_unreachable,
    come_back,
    drain,
    generation,
    outcomes,
    phase_of,
    rolling_store,
    settle,
    settled_store,
    web,
)
from tests.unit.controller.builders import KEYS, REF, Store, crashed, migration, service, service_status, writes

THREE = ("n1", "n2", "n3")

# Turn by turn


def test_nodes_update_batch_by_batch() -> None:
    store = rolling_store(*THREE)
    assert at(store, *THREE) == [2, 1, 1]
    waiting = store.progress("n2")
    assert (waiting.phase, waiting.reason, waiting.release) == (
        pb.NodeProgress.WAITING,
        "n2 waits for its batch: 1 node updates at a time (max_parallel 1)",
        1,
    )
    assert store.rollout().reason == "n1 has not yet reported generation 2 of its assignment", "who waits says nothing"
    store.report("n1", service_status("web", health=pb.ServiceStatus.CHECKING))
    store.converge()
    assert at(store, *THREE) == [2, 1, 1], "running is not healthy"
    settle(store, "n1")
    assert at(store, *THREE) == [2, 2, 1]
    settle(store, "n2")
    assert at(store, *THREE) == [2, 2, 2]
    assert store.phase() == "PROGRESSING"
    settle(store, "n3")
    assert (store.phase(), store.rollout().reason) == ("SETTLED", "")


@pytest.mark.parametrize(
    ("parallel", "expected"), [("2", [2, 2, 1]), ("25%", [2, 1, 1]), ("67%", [2, 2, 1]), ("9", [2, 2, 2])]
)
def test_as_many_at_time_as_release_says(parallel: str, expected: list[int]) -> None:
    assert at(rolling_store(*THREE, parallel=parallel), *THREE) == expected


def test_nodes_without_services_update_at_once() -> None:
    store = settled_store("n1")
    for name in ("n2", "n3"):
        store.add_node(name, "web")
    store.set_environment(*THREE, latest=1)
    store.deploy(2, web(2), parallel="1")
    store.converge()
    assert at(store, *THREE) == [1, 2, 2]
    settle(store, "n2", "n3")
    assert at(store, *THREE) == [2, 2, 2]


def test_node_that_is_attached_again_has_tombstone_and_waits_for_no_node() -> None:
    store = rolling_store(*THREE)
    store.set_environment("n1", "n2", latest=2)
    store.converge()
    store.set_environment(*THREE, latest=2)
    store.converge()
    assert at(store, *THREE) == [2, 1, 2]


def test_change_at_same_release_waits_for_no_node() -> None:
    store = settled_store(*THREE)
    store.deploy(2, web(2), service("redis", "worker"), parallel="1")
    store.converge()
    settle(store, "n1")
    settle(store, "n2")
    store.add_node("n1", "web", "worker")
    store.converge()
    assert at(store, *THREE) == [2, 2, 2]
    assert store.assigned("n1") == ["redis", "web"]


def test_labels_that_change_while_node_waits_hold_when_its_batch_has_come() -> None:
    store = settled_store("n1", "n2")
    store.deploy(2, web(2), service("redis", "worker"), parallel="1")
    store.converge()
    store.add_node("n2", "web", "worker")
    store.converge()
    assert store.assigned("n2") == ["web"]
    settle(store, "n1")
    assert store.assigned("n2") == ["redis", "web"]


# Nodes that take no part


def test_cordoned_node_waits_and_is_counted_out_of_share() -> None:
    store = settled_store(*THREE, "n4")
    store.add_node("n1", "web", cordoned=True)
    store.converge()
    store.deploy(2, web(2), parallel="50%")
    store.converge()
    assert at(store, *THREE, "n4") == [1, 2, 1, 1]
    assert phase_of(store, "n1") == "WAITING"
    for name in ("n2", "n3", "n4"):
        settle(store, name)
    assert store.phase() == "SETTLED"
    store.add_node("n1", "web")
    store.converge()
    assert at(store, "n1") == [2]


def test_drained_node_keeps_its_release_and_is_not_waited_for() -> None:
    store = rolling_store("n1", "n2")
    drain(store, "n2")
    settle(store, "n1")
    assert store.phase() == "SETTLED"
    assert at(store, "n2") == [1]
    progress = store.progress("n2")
    assert progress.phase == pb.NodeProgress.WAITING
    assert "drained" in progress.reason
    assert "devopsellence node uncordon n2" in progress.reason


def test_unreachable_node_is_skipped_and_updated_on_return() -> None:
    store = settled_store(*THREE)
    become_unreachable(store, "n1")
    store.seconds = 5
    store.deploy(2, web(2), parallel="1")
    store.converge()
    assert at(store, *THREE) == [1, 2, 1]
    assert phase_of(store, "n1") == "UNREACHABLE"
    for name in ("n2", "n3"):
        settle(store, name)
    assert store.phase() == "SETTLED"
    store.deploy(3, web(3), parallel="1")
    store.converge()
    for name in ("n2", "n3"):
        settle(store, name)
    assert (store.phase(), at(store, *THREE)) == ("SETTLED", [1, 3, 3])
    come_back(store, "n1")
    assert at(store, "n1") == [3]
    assert store.phase() == "SETTLED"
    settle(store, "n1")
    assert store.rollout().reason == ""


def test_unreachable_node_is_not_in_flight_until_its_return() -> None:
    store = rolling_store(*THREE)
    become_unreachable(store, "n1")
    assert at(store, *THREE) == [2, 2, 1]
    come_back(store, "n1")
    settle(store, "n2")
    assert at(store, *THREE) == [2, 2, 1], "n1 is in flight again"
    settle(store, "n1")
    assert at(store, *THREE) == [2, 2, 2]


def test_several_that_come_back_at_once_move_one_after_other() -> None:
    store = settled_store(*THREE)
    become_unreachable(store, "n2", "n3")
    store.deploy(2, web(2), parallel="1")
    store.converge()
    settle(store, "n1")
    come_back(store, "n2", "n3")
    assert at(store, *THREE) == [2, 2, 1]


def test_node_whose_records_cannot_be_read_takes_no_place() -> None:
    store = rolling_store(*THREE)
    store.garbage(KEYS.status("n1", REF))
    store.converge()
    assert phase_of(store, "n1") == "ERROR"
    assert at(store, *THREE) == [2, 2, 1]


# A newer release


def test_newer_release_updates_midway_nodes_at_once() -> None:
    store = rolling_store(*THREE, "n4")
    settle(store, "n1")
    assert at(store, *THREE, "n4") == [2, 2, 1, 1]
    store.deploy(3, web(3), parallel="1")
    store.converge()
    assert at(store, *THREE, "n4") == [2, 3, 1, 1], "n1 is done at 2, n2 was midway"
    assert (store.rollout().last_settled, outcomes(store)) == (1, [(2, "SUPERSEDED"), (1, "SETTLED")])
    for name in ("n2", "n1", "n3", "n4"):
        assert store.phase() == "PROGRESSING"
        settle(store, name)
    assert (store.phase(), at(store, *THREE, "n4")) == ("SETTLED", [3, 3, 3, 3])


def test_unreachable_node_that_was_midway_gets_newer_release_at_once() -> None:
    store = rolling_store(*THREE)
    become_unreachable(store, "n1")
    store.deploy(3, web(3), parallel="1")
    store.converge()
    assert at(store, *THREE) == [3, 3, 1], "n2 was midway as well"


def test_unreachable_node_that_was_done_keeps_what_it_has_until_it_is_back() -> None:
    store = rolling_store(*THREE)
    settle(store, "n1")
    become_unreachable(store, "n1")
    store.deploy(3, web(3), parallel="1")
    store.converge()
    assert at(store, *THREE) == [2, 3, 1]


# What is written down


def test_counts_cover_all_nodes_and_list_worst_hundred() -> None:
    names = [f"n{number:03d}" for number in range(130)]
    store = settled_store(*names)
    assert len(store.rollout().nodes) == MAX_NODES
    store.deploy(2, web(2), parallel="30")
    store.converge()
    counts = store.rollout().counts
    assert (counts.total, counts.pending, counts.waiting, counts.services_total) == (130, 30, 100, 30)
    for name in names[:29]:
        store.report(name)
    store.report(names[29], crashed("web"), phase="FAILED")
    store.converge()
    rollout = store.rollout()
    assert [node.node for node in rollout.nodes] == sorted(node.node for node in rollout.nodes)
    assert len(rollout.nodes) == MAX_NODES
    assert names[29] in [node.node for node in rollout.nodes]
    assert [node.node for node in rollout.nodes if node.phase == pb.NodeProgress.SETTLED] == []
    assert (rollout.counts.settled, rollout.counts.failed, rollout.counts.pending) == (29, 1, 29)
    assert (rollout.counts.services_settled, rollout.counts.services_total) == (29, 59)


def test_since_is_when_phase_began() -> None:
    store = rolling_store("n1", "n2")
    begun = store.progress("n2").since.seconds
    store.seconds = 10
    store.report("n1", service_status("web", phase=pb.ServiceStatus.PULLING))
    store.converge()
    assert store.progress("n1").since.seconds == begun + 10
    store.seconds = 20
    store.report("n1", service_status("web", phase=pb.ServiceStatus.STARTING))
    store.converge()
    assert store.progress("n1").since.seconds == begun + 10, "it converges since then"
    assert store.progress("n2").since.seconds == begun


def test_since_when_node_is_unreachable_outlives_release() -> None:
    store = rolling_store("n1", "n2")
    become_unreachable(store, "n2")
    since = store.progress("n2").since
    store.seconds = 100
    store.deploy(3, web(3))
    store.converge()
    assert store.progress("n2").since == since


def test_progress_restarts_deadline() -> None:
    store = rolling_store("n1", "n2", deadline=60)
    store.seconds = 50
    settle(store, "n1")
    store.seconds = 109
    store.converge()
    assert store.phase() == "PROGRESSING"


def test_batch_follows_recorded_progress() -> None:
    store = rolling_store("n1", "n2")
    store.step(only=1)
    store.report("n1")
    planned = store.step(only=1)
    assert at(store, "n2") == [1], "the controller died between the record and the assignment"
    record = store.records[KEYS.rollout(REF)]
    assert planned.actions[0].changes[0].key == record.key
    [move] = writes(store.plan())
    assert (move.node, Precondition(record.key, record.mod_revision) in move.rests_on) == ("n2", True)


def test_stale_copy_of_rollout_moves_no_further_node() -> None:
    store = settled_store(*THREE)
    become_unreachable(store, "n1")
    store.deploy(2, web(2), parallel="1")
    before = store.records[KEYS.assignment("n2", REF)]
    store.converge()
    assert at(store, *THREE) == [1, 2, 1]
    come_back(store, "n1")
    now = store.records[KEYS.assignment("n2", REF)]
    store.records[KEYS.assignment("n2", REF)] = before
    moves = [action.node for action in writes(store.plan())]
    store.records[KEYS.assignment("n2", REF)] = now
    assert moves == ["n2"], "that is refused, and planned again"


def test_node_that_is_not_to_move_keeps_its_generation() -> None:
    store = rolling_store(*THREE)
    assert [generation(store, name) for name in THREE] == [2, 1, 1]


def test_older_versions_record_is_completed() -> None:
    store = settled_store("n1", "n2")
    store.deploy(2, web(2))
    store.converge()
    settle(store, "n1", "n2")
    old = pb.Rollout()
    old.CopyFrom(store.rollout())
    for field in ("target", "last_settled", "counts"):
        old.ClearField(field)
    store.put(KEYS.rollout(REF), old)
    store.converge()
    assert (store.rollout().target, store.rollout().last_settled) == (2, 1)
    assert store.rollout().counts.settled == 2


def test_lost_record_is_completed_from_what_most_nodes_have_settled_at() -> None:
    store = rolling_store(*THREE)
    store.garbage(KEYS.rollout(REF))
    store.converge()
    assert (store.rollout().release, store.rollout().target, store.rollout().last_settled) == (2, 2, 1)


def test_unreadable_assignment_is_replaced_with_its_batch() -> None:
    store = Store()
    for name in ("n1", "n2"):
        store.add_node(name, "web")
    store = rolling_store("n1", "n2")
    store.garbage(KEYS.assignment("n2", REF))
    store.converge()
    assert store.assignment("n2") is None
    assert phase_of(store, "n2") == "ERROR"
    settle(store, "n1")
    assert at(store, "n2") == [2]
    assert generation(store, "n2") == 2


def test_verdict_comparisons_fit_into_transaction() -> None:
    store = Store()
    names = [f"n{number:03d}" for number in range(150)]
    for name in names:
        store.add_node(name, "web")
    store.set_environment(*names)
    store.deploy(1, web(1), service("redis", "worker"), task=migration(service="web"))
    planned = store.plan()
    [first, *_] = transactions(planned, [])
    assert len(first.compares) < MAX_OPERATIONS
