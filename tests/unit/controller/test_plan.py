"""Plans for an environment, case by case."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.model.actions import Precondition, WriteKind
from tests.unit.controller.builders import KEYS, REF, Store, kinds, service, service_status, writes

WEB, REDIS = service("web"), service("redis", "worker")


def settled_store() -> Store:
    """n1 (web, worker) and n2 (web) have settled at release 1 of web and redis."""
    store = Store()
    store.add_node("n1", "web", "worker")
    store.add_node("n2", "web")
    store.set_environment("n1", "n2")
    store.deploy(1, REDIS, WEB)
    store.converge()
    store.report("n1")
    store.report("n2")
    store.converge()
    return store


# What is assigned


def test_release_is_assigned_to_each_attached_node_by_its_labels() -> None:
    store = settled_store()
    assert store.assigned("n1") == ["redis", "web"]
    assert store.assigned("n2") == ["web"]
    first = store.assignment("n1")
    assert first is not None
    assert (first.node, first.node_uid, first.generation, first.release, first.revision) == (
        "n1",
        "uid-n1",
        1,
        1,
        "rev1",
    )
    assert (first.organization, first.project, first.environment) == ("acme", "shop", "production")


def test_services_are_sorted_and_whole() -> None:
    store = settled_store()
    store.deploy(2, WEB, service("api", image="api:2"), REDIS)
    store.converge()
    assignment = store.assignment("n1")
    assert assignment is not None
    assert [service.name for service in assignment.services] == ["api", "redis", "web"]
    assert assignment.services[0].image.pinned == "sha256:api:2"


def test_unchanged_state_writes_nothing() -> None:
    store = settled_store()
    assert not store.plan().actions


def test_environment_without_release_is_left_alone() -> None:
    store = Store()
    store.add_node("n1", "web")
    store.set_environment("n1")
    assert not store.plan().actions


def test_new_release_raises_generation_by_one_and_writes_rollout_first() -> None:
    store = settled_store()
    store.deploy(2, REDIS, service("web", image="app:2"))
    planned = store.step()
    assert kinds(planned) == [WriteKind.WRITE_ROLLOUT, WriteKind.WRITE_ASSIGNMENT, WriteKind.WRITE_ASSIGNMENT]
    assignment = store.assignment("n1")
    assert assignment is not None
    assert (assignment.generation, assignment.release) == (2, 2)
    assert writes(planned)[0].reason == "release 2 replaces release 1: redis, web"


def test_label_that_is_added_brings_its_services_to_that_node_alone() -> None:
    store = settled_store()
    store.add_node("n2", "web", "worker")
    planned = store.step()
    [action] = writes(planned)
    assert action.node == "n2"
    assert action.reason == "its labels have changed; release 1 now gives it redis, web"
    assert action.rests_on == (), "nothing is taken away"
    assert store.assigned("n2") == ["redis", "web"]


def test_removed_label_removes_services_with_node_as_precondition() -> None:
    store = settled_store()
    store.add_node("n1", "web")
    [action] = writes(store.plan())
    assert list(action.rests_on) == [Precondition(KEYS.node("n1"), store.records[KEYS.node("n1")].mod_revision)]
    store.converge()
    assert store.assigned("n1") == ["web"]


def test_node_that_is_registered_again_gets_assignment_for_new_machine() -> None:
    store = settled_store()
    store.add_node("n1", "web", "worker", uid="another")
    [action] = writes(store.step())
    assert "registered again" in action.reason
    assignment = store.assignment("n1")
    assert assignment is not None
    assert (assignment.node_uid, assignment.generation) == ("another", 2)


def test_node_that_is_attached_later_gets_newest_release() -> None:
    store = settled_store()
    store.add_node("n3", "web")
    store.set_environment("n1", "n2", "n3", latest=1)
    [action] = writes(store.step())
    assert (action.node, action.reason) == ("n3", "attached; release 1 gives it web")


def test_assignment_that_someone_has_changed_is_replaced() -> None:
    store = settled_store()
    assignment = store.assignment("n1")
    assert assignment is not None
    changed = pb.Assignment()
    changed.CopyFrom(assignment)
    changed.services[0].image.pinned = "sha256:evil"
    store.put(KEYS.assignment("n1", REF), changed)
    [action] = writes(store.step())
    assert action.warning
    restored = store.assignment("n1")
    assert restored is not None
    assert restored.services == assignment.services
    assert restored.generation == 2


def test_generation_of_lost_assignment_continues_from_status() -> None:
    store = settled_store()
    store.deploy(2, REDIS, WEB)
    store.converge()
    store.report("n1")
    store.delete(KEYS.assignment("n1", REF))
    store.converge()
    assignment = store.assignment("n1")
    assert assignment is not None
    assert assignment.generation == 3


# How it is taken back


def test_detached_node_gets_tombstone_until_removal_is_reported() -> None:
    store = settled_store()
    store.set_environment("n1", latest=1)
    planned = store.step()
    [action] = writes(planned)
    assert (action.kind, action.reason) == (WriteKind.WITHDRAW_ASSIGNMENT, "no longer attached")
    tombstone = store.assignment("n2")
    assert tombstone is not None
    assert (tombstone.removed, list(tombstone.services), tombstone.generation) == (True, [], 2)
    assert tombstone.node_uid == "uid-n2"

    assert not store.step().actions, "the agent has not answered yet"
    store.report("n2", phase="REMOVED", generation=1)
    assert not store.step().actions, "that was about an older generation"
    store.report("n2")
    [action] = writes(store.step())
    assert action.kind is WriteKind.DELETE_ASSIGNMENT
    assert {change.key for change in action.changes} == {KEYS.assignment("n2", REF), KEYS.status("n2", REF)}
    assert not store.plan().actions


def test_node_reattached_before_removal_gets_services_back() -> None:
    store = settled_store()
    store.set_environment("n1", latest=1)
    store.step()
    store.set_environment("n1", "n2", latest=1)
    [action] = writes(store.step())
    assert action.reason == "attached again; release 1 gives it web"
    assignment = store.assignment("n2")
    assert assignment is not None
    assert (assignment.removed, assignment.generation) == (False, 3)


def test_deleted_node_keeps_tombstone_while_it_has_a_heartbeat() -> None:
    store = settled_store()
    store.delete(KEYS.node("n2"))
    [action] = writes(store.step())
    assert (action.kind, action.reason) == (WriteKind.WITHDRAW_ASSIGNMENT, "no longer registered")
    assert Precondition(KEYS.node("n2"), 0) in action.rests_on
    assert not store.step().actions
    store.delete(KEYS.heartbeat("n2"))
    [action] = writes(store.step())
    assert action.reason == "the node is not registered and has no heartbeat"
    assert Precondition(KEYS.heartbeat("n2"), 0) in action.rests_on
    assert store.assignment("n2") is None
    assert KEYS.status("n2", REF) not in store.records


def test_tombstone_for_machine_that_was_replaced_goes_by_itself() -> None:
    store = settled_store()
    store.set_environment("n1", latest=1)
    store.step()
    store.add_node("n2", "web", uid="another")
    [action] = writes(store.step())
    assert action.reason == "the machine that it was meant for has been replaced"


def test_tombstone_is_kept_while_old_machine_still_answers() -> None:
    store = settled_store()
    store.set_environment("n1", latest=1)
    store.step()
    store.add_node("n2", "web", uid="another", alive=False)
    assert writes(store.step()) == []


def test_deleted_environment_is_removed_completely() -> None:
    store = settled_store()
    store.delete(KEYS.environment(REF))
    assert kinds(store.step()) == [WriteKind.WITHDRAW_ASSIGNMENT, WriteKind.WITHDRAW_ASSIGNMENT]
    assert not store.step().actions
    store.report("n1")
    store.report("n2")
    store.converge()
    left = [key for key in store.records if REF.environment in key and not key.startswith(KEYS.all_releases_prefix)]
    assert left == []


def test_status_without_assignment_of_detached_node_gets_tombstone() -> None:
    store = settled_store()
    store.set_environment("n1", latest=1)
    store.delete(KEYS.assignment("n2", REF))
    [action] = writes(store.step())
    assert "still reports services" in action.reason
    assert Precondition(KEYS.status("n2", REF), store.records[KEYS.status("n2", REF)].mod_revision) in action.rests_on
    assignment = store.assignment("n2")
    assert assignment is not None
    assert (assignment.removed, assignment.node_uid, assignment.generation) == (True, "uid-n2", 2)


def test_status_that_outlives_its_tombstone_is_deleted() -> None:
    store = settled_store()
    store.set_environment("n1", latest=1)
    store.step()
    store.report("n2")
    late = store.records[KEYS.status("n2", REF)].message
    assert late is not None
    store.converge()
    store.put(KEYS.status("n2", REF), late)
    [action] = writes(store.step())
    assert [change.key for change in action.changes] == [KEYS.status("n2", REF)]
    assert not store.plan().actions


# What cannot be read


def test_unreadable_node_keeps_its_assignment_and_stops_no_node_else() -> None:
    store = settled_store()
    store.garbage(KEYS.node("n1"))
    store.deploy(2, REDIS, WEB)
    store.converge()
    kept, moved = store.assignment("n1"), store.assignment("n2")
    assert kept is not None
    assert moved is not None
    assert (kept.release, kept.generation) == (1, 1)
    assert moved.release == 2
    assert store.progress("n1").phase == pb.NodeProgress.ERROR
    assert KEYS.node("n1") in store.progress("n1").reason
    assert store.phase() == "PROGRESSING", "where redis may run cannot be known"


def test_unreadable_assignment_is_replaced_above_every_generation_reported() -> None:
    store = settled_store()
    store.report("n1", generation=7)
    store.garbage(KEYS.assignment("n1", REF))
    [action] = writes(store.step())
    assert action.warning
    assert "could not be read" in action.reason
    assignment = store.assignment("n1")
    assert assignment is not None
    assert assignment.generation == 8
    assert store.assigned("n1") == ["redis", "web"]


def test_unreadable_assignment_of_detached_node_becomes_tombstone() -> None:
    store = settled_store()
    store.garbage(KEYS.assignment("n2", REF))
    store.set_environment("n1", latest=1)
    store.step()
    assignment = store.assignment("n2")
    assert assignment is not None
    assert (assignment.removed, assignment.generation, assignment.node_uid) == (True, 2, "uid-n2")


def test_unreadable_newest_release_fails_rollout_and_keeps_assignments() -> None:
    store = settled_store()
    store.set_environment("n1", "n2", latest=2)
    store.garbage(KEYS.release(REF, 2))
    assert writes(store.step()) == []
    assert store.phase() == "FAILED"
    assert KEYS.release(REF, 2) in store.rollout().reason
    assert store.rollout().release == 2
    store.deploy(3, REDIS, WEB)
    store.converge()
    assert store.phase() == "PROGRESSING"


@pytest.mark.parametrize(
    "spoil", [lambda store: None, lambda store: store.put(KEYS.release(REF, 2), pb.Release(number=9))]
)
def test_missing_or_wrong_newest_release_is_reported(
    spoil: Callable[[Store], None],
) -> None:
    store = settled_store()
    store.set_environment("n1", "n2", latest=2)
    spoil(store)
    assert writes(store.step()) == []
    assert store.phase() == "FAILED"
    assert store.rollout().reason.startswith("release 2 ")


def test_unreadable_newest_release_is_rolled_out_once_it_can_be_read() -> None:
    store = settled_store()
    store.set_environment("n1", "n2", latest=2)
    store.garbage(KEYS.release(REF, 2))
    store.converge()
    store.deploy(2, REDIS, service("web", image="app:2"))
    store.converge()
    assert store.phase() == "PROGRESSING"
    assert not store.rollout().HasField("finished_at")


def test_unreadable_environment_keeps_everything_and_its_rollout_says_so() -> None:
    store = settled_store()
    store.garbage(KEYS.environment(REF))
    assert kinds(store.step()) == [WriteKind.WRITE_ROLLOUT]
    assert KEYS.environment(REF) in store.rollout().reason
    assert not store.step().actions
    assert store.assigned("n1") == ["redis", "web"]
    store.set_environment("n1", "n2", latest=1)
    store.converge()
    assert store.rollout().reason == ""


def test_empty_document_counts_as_unreadable() -> None:
    store = settled_store()
    store.put(KEYS.environment(REF), pb.Environment())
    assert writes(store.step()) == []
    assert "it says that it is environment '//'" in store.rollout().reason
    store = settled_store()
    store.put(KEYS.node("n1"), pb.Node())
    assert writes(store.step()) == []
    assert store.progress("n1").phase == pb.NodeProgress.ERROR


def test_unreadable_rollout_is_replaced() -> None:
    store = settled_store()
    store.garbage(KEYS.rollout(REF))
    assert kinds(store.step()) == [WriteKind.WRITE_ROLLOUT]
    assert (store.phase(), store.rollout().release) == ("SETTLED", 1)


def test_unreadable_status_or_heartbeat_shows_in_progress_only() -> None:
    for key in (KEYS.status("n2", REF), KEYS.heartbeat("n2")):
        store = settled_store()
        store.garbage(key)
        assert writes(store.step()) == []
        assert store.progress("n2").phase == pb.NodeProgress.ERROR
        assert key in store.progress("n2").reason
        assert store.progress("n1").phase == pb.NodeProgress.SETTLED


def test_unreadable_heartbeat_is_not_taken_for_one_that_is_gone() -> None:
    store = settled_store()
    store.delete(KEYS.node("n2"))
    store.garbage(KEYS.heartbeat("n2"))
    store.step()
    assert writes(store.step()) == []


# Cordoned nodes


def test_cordoned_node_keeps_its_release_and_is_not_waited_for() -> None:
    store = settled_store()
    store.add_node("n2", "web", cordoned=True)
    store.deploy(2, REDIS, WEB)
    store.converge()
    kept = store.assignment("n2")
    assert kept is not None
    assert kept.release == 1
    store.report("n1")
    store.converge()
    assert store.phase() == "SETTLED"
    assert "n2 is cordoned and keeps release 1" in store.rollout().reason
    store.add_node("n2", "web")
    store.converge()
    moved = store.assignment("n2")
    assert moved is not None
    assert moved.release == 2


def test_cordoned_node_that_is_at_newest_release_counts_as_any_other() -> None:
    store = settled_store()
    store.add_node("n2", "web", cordoned=True)
    assert not store.step().actions


def test_cordoned_node_gives_up_what_it_is_detached_from() -> None:
    store = settled_store()
    store.add_node("n2", "web", cordoned=True)
    store.set_environment("n1", latest=1)
    [action] = writes(store.step())
    assert action.kind is WriteKind.WITHDRAW_ASSIGNMENT


# Events


def test_events_group_nodes_with_the_same_reason() -> None:
    store = Store()
    for name in ("n1", "n2", "n3", "n4", "n5", "n6", "n7"):
        store.add_node(name, "web")
    store.set_environment(*[f"n{number}" for number in range(1, 8)])
    store.deploy(1, WEB)
    store.converge()
    assert [(event.code, event.message) for event in store.events] == [
        ("rollout_started", "release 1 is rolled out"),
        ("assignment_written", "n1, n2, n3, n4, n5 and 2 more: attached; release 1 gives it web"),
    ]
    for number in range(1, 8):
        store.report(f"n{number}")
        store.converge()
    assert [event.code for event in store.events[2:]] == ["rollout_settled"]
    last = store.events[-1]
    assert (last.source, last.release, last.severity) == ("controller", 1, pb.Event.INFO)


def test_event_about_one_node_names_it() -> None:
    store = settled_store()
    store.events.clear()
    store.set_environment("n1", latest=1)
    store.step()
    store.report("n2")
    store.step()
    assert [(event.code, event.node) for event in store.events] == [
        ("assignment_withdrawn", "n2"),
        ("assignment_deleted", "n2"),
    ]


def test_service_status_of_service_on_its_way_out_does_not_count() -> None:
    store = settled_store()
    store.deploy(2, WEB)
    store.converge()
    store.report("n1", service_status("redis", phase=pb.ServiceStatus.STOPPING), service_status("web"))
    store.converge()
    progress = store.progress("n1")
    assert (progress.services_settled, progress.services_total) == (1, 1)
    assert progress.phase == pb.NodeProgress.CONVERGING
    assert progress.reason == 'service "redis" on n1: is stopping'
