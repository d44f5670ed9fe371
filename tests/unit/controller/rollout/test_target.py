"""A release that fails goes back or halts, case by case."""

from __future__ import annotations

import pytest

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.model.actions import Precondition, WriteKind
from tests.unit.controller.batch_builders import (
    at,
    become_unreachable,
    codes,
    come_back,
    fail,
    generation,
    outcomes,
    phase_of,
    rolling_store,
    settle,
    settled_store,
    web,
)
from tests.unit.controller.builders import KEYS, REF, Store, crashed, kinds, service, service_status, writes

THREE = ("n1", "n2", "n3")
WHY = 'service "web" on n1: ended by itself (exit code 3)'

# Back


def test_only_updated_node_rolls_back_and_others_never_hear_of_it() -> None:
    store = rolling_store(*THREE)
    others = [store.records[KEYS.assignment(name, REF)] for name in ("n2", "n3")]
    fail(store, "n1")
    assert (store.phase(), store.rollout().target, store.rollout().halted) == ("ROLLING_BACK", 1, WHY)
    assert store.rollout().reason == f"{WHY}; back to release 1: n1 has not yet reported generation 3 of its assignment"
    assert (at(store, *THREE), generation(store, "n1")) == ([1, 1, 1], 3)
    assert not store.rollout().HasField("finished_at")
    settle(store, "n1")
    assert (store.phase(), store.rollout().reason) == ("FAILED", f"{WHY}; release 1 runs again")
    assert store.rollout().HasField("finished_at")
    assert [store.records[KEYS.assignment(name, REF)] for name in ("n2", "n3")] == others
    assert not store.plan().actions
    assert codes(store, 2) == ["rollout_started", "rollout_rolling_back", "rollout_rolled_back", "rollout_failed"]


def test_settled_nodes_roll_back_in_batches_after_failed_ones() -> None:
    store = rolling_store(*THREE)
    settle(store, "n1")
    settle(store, "n2")
    fail(store, "n3")
    assert at(store, *THREE) == [2, 2, 1]
    assert (
        store.progress("n1").reason == "n1 waits for its batch to roll back: 1 node updates at a time (max_parallel 1)"
    )
    settle(store, "n3")
    assert at(store, *THREE) == [1, 2, 1]
    settle(store, "n1")
    assert (at(store, *THREE), store.phase()) == ([1, 1, 1], "ROLLING_BACK")
    settle(store, "n2")
    assert store.phase() == "FAILED"


def test_all_that_were_midway_roll_back_at_once() -> None:
    store = rolling_store(*THREE, parallel="3")
    store.report("n2", service_status("web", phase=pb.ServiceStatus.STARTING))
    fail(store, "n1")
    assert at(store, *THREE) == [1, 1, 1]


def test_rollout_is_recorded_before_assignments_roll_back() -> None:
    store = rolling_store(*THREE)
    store.report("n1", crashed("web", code=3, failed=True))
    planned = store.plan()
    assert kinds(planned) == [WriteKind.WRITE_ROLLOUT, WriteKind.WRITE_ASSIGNMENT]
    for key in (KEYS.status("n1", REF), KEYS.assignment("n1", REF)):
        assert Precondition(key, store.records[key].mod_revision) in planned.actions[0].rests_on
    store.step(only=1)
    assert (at(store, "n1"), store.rollout().target) == ([2], 1)
    store.report("n1")
    store.stopwatch = None
    store.converge()
    assert at(store, *THREE) == [1, 1, 1], "who leads next goes on in the same direction"
    assert codes(store, 2).count("rollout_rolling_back") == 1


def test_deadline_fails_what_is_in_flight_and_runs_again_for_way_back() -> None:
    store = rolling_store(*THREE, deadline=60)
    store.seconds = 60
    store.converge()
    assert store.phase() == "ROLLING_BACK"
    assert store.rollout().halted == (
        "no progress within 60 s (progress_deadline): n1 has not yet reported generation 2 of its assignment"
    )
    assert store.plan().recheck_after == pytest.approx(60)
    store.seconds = 120
    store.converge()
    assert store.phase() == "FAILED"
    left = "n1 has not yet reported generation 3 of its assignment"
    assert store.rollout().reason == f"{store.rollout().halted}; release 1 is to run again, but {left}"
    assert "rollout_rolled_back" not in codes(store, 2)
    settle(store, "n1")
    assert store.rollout().reason.endswith("; release 1 runs again"), "it goes on nevertheless"


def test_unreachable_node_causes_no_rollback() -> None:
    store = settled_store("n1")
    store.add_node("n2", "worker")
    store.set_environment("n1", "n2", latest=1)
    store.deploy(2, web(2), service("redis", "worker"), deadline=60)
    store.delete(KEYS.heartbeat("n2"))
    store.converge()
    settle(store, "n1")
    store.seconds = 60
    store.converge()
    assert (store.phase(), store.rollout().halted, at(store, "n1")) == ("FAILED", "", [2])
    come_back(store, "n2")
    settle(store, "n2")
    assert store.phase() == "SETTLED"


def test_unplaceable_service_causes_no_rollback() -> None:
    store = settled_store(*THREE)
    store.deploy(2, web(2), service("redis", "worker"), parallel="1")
    store.converge()
    assert (store.phase(), store.rollout().halted, at(store, *THREE)) == ("FAILED", "", [2, 1, 1])
    store.add_node("n3", "web", "worker")
    store.converge()
    assert store.phase() == "PROGRESSING", "although it is nobody's turn"
    settle(store, "n1")
    assert at(store, *THREE) == [2, 2, 1]


def test_failed_node_rolls_back_despite_unplaceable_service() -> None:
    store = settled_store(*THREE)
    store.deploy(2, web(2), service("redis", "worker"), parallel="1")
    store.converge()
    fail(store, "n1")
    assert (store.phase(), at(store, *THREE)) == ("ROLLING_BACK", [1, 1, 1])


# What happens meanwhile


def test_unreachable_node_rolls_back_on_return() -> None:
    store = rolling_store(*THREE)
    settle(store, "n1")
    become_unreachable(store, "n1")
    fail(store, "n2")
    assert at(store, *THREE) == [2, 1, 1]
    settle(store, "n2")
    assert store.phase() == "FAILED"
    assert store.rollout().reason.startswith(
        f"{WHY.replace('n1', 'n2')}; release 1 runs again, but n1 has no heartbeat"
    )
    come_back(store, "n1")
    assert at(store, *THREE) == [1, 1, 1]
    settle(store, "n1")
    assert store.rollout().reason.endswith("; release 1 runs again")


def test_node_that_is_cut_off_midway_is_to_roll_back_at_once() -> None:
    store = rolling_store(*THREE, parallel="2")
    become_unreachable(store, "n1")
    fail(store, "n2")
    assert at(store, *THREE) == [1, 1, 1]


def test_failing_node_is_detached_on_way_back() -> None:
    store = rolling_store(*THREE)
    fail(store, "n1")
    store.set_environment("n2", "n3", latest=2)
    store.converge()
    assert store.phase() == "FAILED"
    assert store.rollout().target == 1
    assert at(store, *THREE) == [0, 1, 1]


def test_rollout_continues_after_failing_node_is_detached() -> None:
    store = rolling_store(*THREE)
    store.report("n1", crashed("web", failed=True))
    store.set_environment("n2", "n3", latest=2)
    store.converge()
    assert (store.phase(), at(store, *THREE)) == ("PROGRESSING", [0, 2, 1])


def test_labels_and_new_nodes_follow_what_runs_again() -> None:
    store = settled_store("n1", "n2")
    store.deploy(2, web(2), service("redis", "worker"), parallel="1")
    store.add_node("n1", "web", "worker")
    store.converge()
    store.report("n1", service_status("redis"), crashed("web", code=3, failed=True))
    store.converge()
    settle(store, "n1")
    assert (store.phase(), store.assigned("n1")) == ("FAILED", ["web"])
    store.add_node("n3", "web")
    store.set_environment(*THREE, latest=2)
    store.converge()
    assert at(store, *THREE) == [1, 1, 1]
    settle(store, "n3")
    assert store.rollout().reason.endswith("; release 1 runs again")


def test_release_that_is_written_on_way_back_supersedes_it() -> None:
    store = rolling_store(*THREE)
    settle(store, "n1")
    fail(store, "n2")
    assert at(store, *THREE) == [2, 1, 1]
    store.deploy(3, web(3), parallel="1")
    store.converge()
    rollout = store.rollout()
    assert (rollout.phase, rollout.target, rollout.last_settled, rollout.halted) == (pb.Rollout.PROGRESSING, 3, 1, "")
    assert outcomes(store) == [(2, "FAILED"), (1, "SETTLED")]
    assert rollout.history[0].reason == WHY.replace("n1", "n2")
    for _ in range(3):
        settle(store, *[name for name in THREE if at(store, name) == [3]])
    settle(store, *THREE)
    assert (store.phase(), at(store, *THREE)) == ("SETTLED", [3, 3, 3])


def test_failed_release_is_never_what_next_one_rolls_back_to() -> None:
    store = rolling_store(*THREE)
    fail(store, "n1")
    settle(store, "n1")
    for number in (3, 4):
        store.deploy(number, web(number), parallel="1")
        store.converge()
        fail(store, "n1")
        assert (store.phase(), store.rollout().target, at(store, *THREE)) == ("ROLLING_BACK", 1, [1, 1, 1])
        settle(store, "n1")
    assert outcomes(store) == [(3, "FAILED"), (2, "FAILED"), (1, "SETTLED")]


def test_crash_after_it_has_settled_takes_nothing_back() -> None:
    store = settled_store(*THREE)
    store.deploy(2, web(2))
    store.converge()
    settle(store, *THREE)
    fail(store, "n1")
    assert (store.phase(), at(store, *THREE)) == ("SETTLED", [2, 2, 2])


def test_unreadable_rollback_target_keeps_nodes() -> None:
    store = rolling_store(*THREE, deadline=60)
    settle(store, "n1")
    fail(store, "n2")
    store.garbage(KEYS.release(REF, 1))
    store.converge()
    assert (store.phase(), at(store, *THREE)) == ("ROLLING_BACK", [2, 1, 1])
    assert KEYS.release(REF, 1) in store.rollout().reason
    store.seconds = 100
    store.converge()
    assert store.phase() == "FAILED"
    store.put(KEYS.release(REF, 1), settled_store("n1").records[KEYS.release(REF, 1)].message or pb.Release())
    store.converge()
    settle(store, "n2")
    assert at(store, *THREE) == [1, 1, 1]


# No further


def test_release_that_halts_stays_where_it_is() -> None:
    store = rolling_store(*THREE, halt=True)
    settle(store, "n1")
    fail(store, "n2")
    assert (store.phase(), store.rollout().target, store.rollout().halted) == ("FAILED", 2, WHY.replace("n1", "n2"))
    assert store.rollout().reason == store.rollout().halted
    assert at(store, *THREE) == [2, 2, 1]
    held = store.progress("n3")
    assert (held.phase, held.reason) == (
        pb.NodeProgress.WAITING,
        "n3 keeps release 1: release 2 has been halted",
    )
    assert codes(store, 2) == ["rollout_started", "rollout_halted", "rollout_failed"]
    settle(store, "n2")
    assert (store.phase(), at(store, *THREE)) == ("FAILED", [2, 2, 1]), "n3 is behind"
    assert not store.plan().actions


def test_release_that_was_halted_on_its_last_node_has_settled_after_all() -> None:
    store = rolling_store("n1", "n2", halt=True)
    settle(store, "n1")
    fail(store, "n2")
    settle(store, "n2")
    assert (store.phase(), store.rollout().halted, store.rollout().reason) == ("SETTLED", "", "")


def test_once_halted_nodes_labels_change_what_it_runs_of_its_own_release() -> None:
    store = settled_store(*THREE)
    store.deploy(2, web(2), service("redis", "worker"), parallel="1")
    store.converge()
    store.deploy(3, web(3), service("redis", "worker", "redis:3"), parallel="1", halt=True)
    store.add_node("n1", "web", "worker")
    store.converge()
    store.report("n1", crashed("web", failed=True), service_status("redis"))
    store.converge()
    store.add_node("n1", "web")
    store.add_node("n2")
    store.converge()
    assert (at(store, *THREE), store.assigned("n1"), store.assigned("n2")) == ([3, 1, 1], ["web"], [])
    store.add_node("n4", "web")
    store.set_environment(*THREE, "n4", latest=3)
    store.converge()
    assert store.assignment("n4") is None
    assert store.progress("n4").reason == "n4 gets nothing: release 3 has been halted"


def test_rollout_halts_until_rollback_target_is_readable() -> None:
    store = rolling_store(*THREE)
    known = store.records[KEYS.release(REF, 1)].message
    assert known is not None
    store.garbage(KEYS.release(REF, 1))
    fail(store, "n1")
    assert (store.phase(), store.rollout().target, at(store, *THREE)) == ("FAILED", 2, [2, 1, 1])
    assert KEYS.release(REF, 1) in store.rollout().reason
    store.put(KEYS.release(REF, 1), known)
    store.converge()
    assert (store.phase(), at(store, *THREE)) == ("ROLLING_BACK", [1, 1, 1])


def test_first_release_has_nothing_to_roll_back_to_and_reaches_everybody() -> None:
    store = Store()
    for name in THREE:
        store.add_node(name, "web")
    store.set_environment(*THREE)
    store.deploy(1, web(1), parallel="1")
    store.converge()
    assert at(store, *THREE) == [1, 1, 1]
    fail(store, "n1")
    assert (store.phase(), store.rollout().halted) == ("FAILED", "")
    settle(store, *THREE)
    assert store.phase() == "SETTLED"


def test_until_release_has_settled_each_one_reaches_everybody_at_once() -> None:
    store = Store()
    for name in THREE:
        store.add_node(name, "web")
    store.set_environment(*THREE)
    store.deploy(1, web(1))
    store.converge()
    store.report("n3", crashed("web", failed=True))
    settle(store, "n1", "n2")
    store.deploy(2, web(2), parallel="1")
    store.converge()
    assert at(store, *THREE) == [2, 2, 2]
    fail(store, "n3")
    assert (store.phase(), store.rollout().halted) == ("FAILED", "")
    settle(store, *THREE)
    assert store.phase() == "SETTLED"


def test_release_that_says_nothing_about_it_is_withdrawn() -> None:
    store = settled_store(*THREE)
    store.deploy(2, web(2))
    silent = store.records[KEYS.release(REF, 2)].message
    assert isinstance(silent, pb.Release)
    silent.ClearField("rollout")
    store.put(KEYS.release(REF, 2), silent)
    store.converge()
    assert at(store, *THREE) == [2, 1, 1]
    fail(store, "n1")
    assert store.phase() == "ROLLING_BACK"


# A controller that dies


@pytest.mark.parametrize("written", range(5))
@pytest.mark.parametrize("turn", range(6))
def test_after_any_controller_crash_next_one_comes_to_same_end(turn: int, written: int) -> None:
    store = settled_store(*THREE)
    turns = iter(range(100))

    def go_on() -> None:
        if next(turns) == turn:
            store.step(only=written)
            store.stopwatch = None
        store.converge()
        assert phase_of(store, "n1") != "UNREACHABLE"

    store.deploy(2, web(2), parallel="2")
    go_on()
    for name in ("n1", "n2"):
        store.report(name)
    go_on()
    store.report("n3", crashed("web", code=3, failed=True))
    go_on()
    for _ in range(3):
        for name in THREE:
            if at(store, name) == [1]:
                store.report(name)
        go_on()
    assert (store.phase(), at(store, *THREE)) == ("FAILED", [1, 1, 1])
    assert store.rollout().reason == f"{WHY.replace('n1', 'n3')}; release 1 runs again"
    assert [generation(store, name) for name in THREE] == [3, 3, 3]
    assert not writes(store.plan())
    assert codes(store, 2) == ["rollout_started", "rollout_rolling_back", "rollout_rolled_back", "rollout_failed"]
