"""Rollout after reports of the nodes, case by case. Covers verdict, status and coverage."""

from __future__ import annotations

import pytest

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.rollout.history import MAX_HISTORY
from tests.unit.controller.builders import KEYS, REF, Store, crashed, service, service_status

WEB, REDIS = service("web"), service("redis", "worker")


def deployed_store(*nodes: str, deadline: int = 600) -> Store:
    """Release 1 of web, just assigned to ``nodes``."""
    store = Store()
    for name in nodes:
        store.add_node(name, "web")
    store.set_environment(*nodes)
    store.deploy(1, WEB, deadline=deadline)
    store.converge()
    return store


def settled_store(*nodes: str) -> Store:
    store = deployed_store(*nodes)
    for name in nodes:
        store.report(name)
    store.converge()
    return store


# From progressing to settled


def test_rollout_progresses_until_every_node_has_settled() -> None:
    store = deployed_store("n1", "n2")
    assert store.phase() == "PROGRESSING"
    assert store.rollout().reason.startswith("n1 has not yet reported generation 1 of its assignment; n2 ")
    assert [node.phase for node in store.rollout().nodes] == [pb.NodeProgress.PENDING] * 2
    store.report("n1")
    store.converge()
    assert store.phase() == "PROGRESSING"
    assert store.rollout().reason == "n2 has not yet reported generation 1 of its assignment"
    store.seconds = 5
    store.report("n2")
    store.converge()
    assert store.phase() == "SETTLED"
    assert store.rollout().reason == ""
    assert store.rollout().finished_at.seconds - store.rollout().started_at.seconds == 5


def test_report_on_other_generation_or_machine_is_ignored() -> None:
    for changed in ({"generation": 9}, {"node_uid": "another"}):
        store = deployed_store("n1")
        store.report("n1", **changed)
        store.converge()
        assert store.progress("n1").phase == pb.NodeProgress.PENDING


def test_reason_says_what_converging_service_does() -> None:
    store = deployed_store("n1")
    store.report("n1", service_status("web", phase=pb.ServiceStatus.PULLING, health=0))
    store.converge()
    progress = store.progress("n1")
    assert (progress.phase, progress.services_settled, progress.services_total) == (pb.NodeProgress.CONVERGING, 0, 1)
    assert store.rollout().reason == 'service "web" on n1: its image is being pulled'


def test_running_service_that_is_not_healthy_has_not_settled() -> None:
    store = deployed_store("n1")
    store.report("n1", service_status("web", health=pb.ServiceStatus.CHECKING))
    store.converge()
    assert store.progress("n1").services_settled == 0


def test_release_that_changes_nothing_settles_all_same() -> None:
    store = settled_store("n1")
    store.deploy(2, WEB)
    store.converge()
    store.report("n1")
    store.converge()
    assert (store.phase(), store.rollout().release) == ("SETTLED", 2)


def test_service_that_others_wait_for_has_settled_when_it_has_completed() -> None:
    store = deployed_store("n1")
    completed = service_status("web", phase=pb.ServiceStatus.COMPLETED, health=pb.ServiceStatus.NONE)
    store.report("n1", completed)
    store.converge()
    assert store.progress("n1").services_settled == 1
    store.report("n1", completed, phase="SETTLED")
    store.converge()
    assert store.phase() == "SETTLED"


# Nodes that do not answer


def test_unreachable_node_is_shown_and_not_waited_for() -> None:
    store = deployed_store("n1", "n2")
    store.delete(KEYS.heartbeat("n2"))
    store.report("n1")
    store.converge()
    assert store.progress("n2").phase == pb.NodeProgress.UNREACHABLE
    assert store.phase() == "SETTLED"
    assert store.rollout().reason.startswith("n2 has no heartbeat")


def test_only_node_of_service_is_waited_for_also_when_it_is_unreachable() -> None:
    store = Store()
    store.add_node("n1", "web")
    store.add_node("n2", "worker", alive=False)
    store.set_environment("n1", "n2")
    store.deploy(1, REDIS, WEB)
    store.converge()
    store.report("n1")
    store.converge()
    assert store.phase() == "PROGRESSING"
    assert store.rollout().reason.startswith("n2 has no heartbeat")


def test_unreachable_node_that_comes_back_shows_its_own_progress() -> None:
    store = deployed_store("n1", "n2")
    store.delete(KEYS.heartbeat("n2"))
    store.report("n1")
    store.converge()
    store.add_node("n2", "web")
    store.converge()
    assert store.progress("n2").phase == pb.NodeProgress.PENDING
    assert store.phase() == "SETTLED"
    store.report("n2")
    store.converge()
    assert store.rollout().reason == ""


def test_agent_of_earlier_registration_does_not_count_as_node() -> None:
    store = deployed_store("n1")
    store.put(KEYS.heartbeat("n1"), pb.Heartbeat(node="n1", uid="an older one"))
    store.converge()
    assert store.progress("n1").phase == pb.NodeProgress.UNREACHABLE
    assert "earlier registration" in store.progress("n1").reason


def test_agent_that_cannot_work_keeps_its_node_from_settling() -> None:
    store = deployed_store("n1")
    store.put(KEYS.heartbeat("n1"), pb.Heartbeat(node="n1", uid="uid-n1", problem="Docker does not answer"))
    store.report("n1")
    store.converge()
    assert store.phase() == "PROGRESSING"
    assert store.rollout().reason == "the agent of n1 cannot work: Docker does not answer"


def test_assignment_that_agent_cannot_read_is_error_of_that_node() -> None:
    for generation in (1, 0):
        store = deployed_store("n1")
        store.report("n1", service_status("web"), phase="ERROR", reason="unknown kind", generation=generation)
        store.converge()
        assert store.progress("n1").phase == pb.NodeProgress.ERROR
        assert store.rollout().reason == "n1 cannot read its assignment: unknown kind"


# Failure


def test_given_up_service_fails_rollout_with_exit_code() -> None:
    store = deployed_store("n1", "n2")
    store.report("n1")
    store.report("n2", crashed("web", code=3, failed=True))
    store.converge()
    assert store.phase() == "FAILED"
    assert store.rollout().reason == 'service "web" on n2: ended by itself (exit code 3)'
    assert store.progress("n2").phase == pb.NodeProgress.FAILED
    assert store.progress("n1").phase == pb.NodeProgress.SETTLED
    assert [event.severity for event in store.events if event.code == "rollout_failed"] == [pb.Event.ERROR]


def test_exit_code_that_reason_already_names_is_not_repeated() -> None:
    store = deployed_store("n1")
    store.report("n1", crashed("web", code=3, failed=True, reason="ended with exit code 3"))
    store.converge()
    assert store.rollout().reason == 'service "web" on n1: ended with exit code 3'


def test_crash_that_was_not_given_up_yet_is_no_failure_of_rollout() -> None:
    store = deployed_store("n1")
    store.report("n1", crashed("web"), phase="FAILED")
    store.converge()
    assert store.phase() == "PROGRESSING"
    assert store.progress("n1").phase == pb.NodeProgress.FAILED


def test_failed_rollout_stays_failed_with_its_reason_until_all_has_settled() -> None:
    store = deployed_store("n1")
    store.report("n1", crashed("web", failed=True))
    store.converge()
    reason = store.rollout().reason
    store.report("n1", service_status("web", phase=pb.ServiceStatus.STARTING, health=0))
    store.converge()
    assert (store.phase(), store.rollout().reason) == ("FAILED", reason)
    store.report("n1")
    store.converge()
    assert (store.phase(), store.rollout().reason) == ("SETTLED", "")
    assert [event.code for event in store.events][-2:] == ["rollout_failed", "rollout_settled"]


def test_failure_reported_about_release_before_does_not_fail_this_one() -> None:
    store = deployed_store("n1")
    store.report("n1", crashed("web", failed=True))
    store.converge()
    store.deploy(2, WEB)
    store.converge()
    assert store.phase() == "PROGRESSING"


def test_no_progress_within_deadline_fails_rollout() -> None:
    store = deployed_store("n1", deadline=60)
    store.seconds = 20
    planned = store.step()
    assert planned.recheck_after == pytest.approx(40)
    store.seconds = 60
    store.step()
    assert store.phase() == "FAILED"
    assert store.rollout().reason == (
        "no progress within 60 s (progress_deadline): n1 has not yet reported generation 1 of its assignment"
    )
    assert store.step().recheck_after is None


def test_progress_starts_deadline_anew() -> None:
    store = deployed_store("n1", "n2", deadline=60)
    store.seconds = 50
    store.report("n1")
    store.converge()
    store.seconds = 109
    assert store.step().recheck_after == pytest.approx(1)
    assert store.phase() == "PROGRESSING"
    store.seconds = 110
    store.step()
    assert store.phase() == "FAILED"


def test_service_that_goes_up_and_down_is_no_progress() -> None:
    store = deployed_store("n1", "n2", deadline=60)
    for second in (10, 20, 30, 40):
        store.seconds = second
        store.report("n1", *([] if second % 20 else [crashed("web")]))
        store.converge()
    store.seconds = 70
    store.step()
    assert store.phase() == "FAILED"


def test_new_leader_counts_deadline_from_when_it_began() -> None:
    store = deployed_store("n1", deadline=60)
    store.seconds, store.stopwatch = 3600, None
    store.step()
    assert store.phase() == "PROGRESSING"


def test_release_without_deadline_gets_ten_minutes() -> None:
    store = deployed_store("n1", deadline=0)
    assert store.step().recheck_after == pytest.approx(600)


# Placement


def test_unplaceable_service_fails_rollout_at_once() -> None:
    store = deployed_store("n1")
    store.deploy(2, REDIS, WEB)
    store.converge()
    assert store.phase() == "FAILED"
    assert store.rollout().reason == (
        'no attached node is labelled "worker", which service "redis" needs; '
        "run devopsellence node label set n1 --labels web,worker"
    )
    assert store.assigned("n1") == ["web"]


def test_rollout_that_failed_for_want_of_label_progresses_when_label_is_set() -> None:
    store = deployed_store("n1")
    store.deploy(2, REDIS, WEB)
    store.converge()
    store.add_node("n1", "web", "worker")
    store.converge()
    assert store.phase() == "PROGRESSING"
    assert not store.rollout().HasField("finished_at")
    store.report("n1")
    store.converge()
    assert store.phase() == "SETTLED"


def test_release_without_attached_nodes_fails_and_says_what_to_do() -> None:
    store = deployed_store()
    assert store.phase() == "FAILED"
    assert "devopsellence node attach" in store.rollout().reason
    store.add_node("n1", "web")
    store.set_environment("n1", latest=1)
    store.converge()
    assert store.phase() == "PROGRESSING"


def test_attached_node_that_is_not_registered_is_said() -> None:
    store = Store()
    store.set_environment("n1")
    store.deploy(1, WEB)
    store.converge()
    assert store.phase() == "FAILED"
    assert "no attached node is registered (n1)" in store.rollout().reason


def test_verdict_about_placement_rests_on_nodes_it_was_made_from() -> None:
    store = deployed_store("n1")
    store.deploy(2, REDIS, WEB)
    assert [basis.key for basis in store.plan().actions[0].rests_on] == [KEYS.node("n1")]


# After it has settled


def test_service_that_crashes_after_it_has_settled_shows_as_reason() -> None:
    store = settled_store("n1", "n2")
    store.report("n2", crashed("web", code=137, failed=True))
    store.converge()
    assert store.phase() == "SETTLED"
    assert store.rollout().reason == 'service "web" on n2: ended by itself (exit code 137)'
    assert store.progress("n2").phase == pb.NodeProgress.FAILED
    finished = store.rollout().finished_at
    store.report("n2")
    store.converge()
    assert store.rollout().reason == ""
    assert store.rollout().finished_at == finished


def test_settled_rollout_stays_settled_after_operator_changes() -> None:
    store = settled_store("n1")
    store.add_node("n2", "web")
    store.set_environment("n1", "n2", latest=1)
    store.converge()
    assert store.phase() == "SETTLED"
    assert "n2 has not yet reported" in store.rollout().reason
    store.set_environment(latest=1)
    store.converge()
    assert store.phase() == "SETTLED"
    assert "no node is attached" in store.rollout().reason


# History


def test_newer_release_puts_outcome_into_history() -> None:
    store = settled_store("n1")
    finished = store.rollout().finished_at
    store.seconds = 10
    store.deploy(2, WEB)
    store.converge()
    [outcome] = store.rollout().history
    assert (outcome.release, outcome.phase, outcome.finished_at) == (1, pb.Rollout.SETTLED, finished)


def test_release_that_had_not_settled_was_superseded() -> None:
    store = deployed_store("n1")
    store.deploy(2, WEB)
    store.converge()
    [outcome] = store.rollout().history
    assert (outcome.release, outcome.phase) == (1, pb.Rollout.SUPERSEDED)
    assert outcome.reason == "release 2 was written before it settled"


def test_release_that_failed_stays_failed_in_history() -> None:
    store = deployed_store("n1")
    store.report("n1", crashed("web", failed=True))
    store.converge()
    store.deploy(2, WEB)
    store.converge()
    [outcome] = store.rollout().history
    assert (outcome.release, outcome.phase) == (1, pb.Rollout.FAILED)
    assert "exit code 1" in outcome.reason


def test_skipped_releases_are_superseded() -> None:
    store = settled_store("n1")
    store.deploy(4, WEB)
    store.converge()
    assert [(outcome.release, outcome.phase) for outcome in store.rollout().history] == [
        (3, pb.Rollout.SUPERSEDED),
        (2, pb.Rollout.SUPERSEDED),
        (1, pb.Rollout.SETTLED),
    ]


def test_history_is_bounded_and_newest_first() -> None:
    store = settled_store("n1")
    for number in (2, 3, 250):
        store.deploy(number, WEB)
        store.converge()
    history = store.rollout().history
    assert len(history) == MAX_HISTORY
    assert [outcome.release for outcome in history] == list(range(249, 149, -1))


def test_lower_release_number_after_restore_starts_new_rollout() -> None:
    store = settled_store("n1")
    store.deploy(2, WEB)
    store.converge()
    store.set_environment("n1", latest=1)
    store.converge()
    assert store.rollout().release == 1
    assert [outcome.release for outcome in store.rollout().history] == [2]


def test_started_at_is_when_release_was_first_seen() -> None:
    store = settled_store("n1")
    started = store.rollout().started_at
    store.seconds = 7
    store.deploy(2, WEB)
    store.converge()
    assert store.rollout().started_at.seconds == started.seconds + 7
    assert not store.rollout().HasField("finished_at")
    assert (store.rollout().organization, store.rollout().environment) == (REF.organization, REF.environment)
