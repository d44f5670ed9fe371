"""What made a release fail: its output in the Rollout and in events, and nodes on which nothing can start."""

from __future__ import annotations

import pytest

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.api.v1 import workload_pb2
from tests.unit.controller.batch_builders import at, become_unreachable, codes, come_back, rolling_store, settle, web
from tests.unit.controller.builders import Store, crashed, service, service_status

THREE = ("n1", "n2", "n3")
NO_NETWORK = "a network called x is in the way (docker network rm x)"


def unhealthy(*lines: str, failed: bool = True) -> pb.ServiceStatus:
    status = service_status("web", phase=pb.ServiceStatus.STARTING, health=pb.ServiceStatus.UNHEALTHY)
    status.failed, status.reason = failed, "not healthy in time: answered 500"
    status.last_unhealthy.at.FromSeconds(100)
    status.last_unhealthy.log_lines.extend(lines)
    return status


def ended(*lines: str) -> pb.ServiceStatus:
    status = crashed("web", code=3, failed=True)
    status.last_exit.log_lines.extend(lines)
    return status


def recorded(store: Store) -> list[tuple[str, str, int, list[str]]]:
    failures = store.rollout().failures
    return [(failure.node, failure.service, failure.release, list(failure.log_lines)) for failure in failures]


@pytest.mark.parametrize("status", [unhealthy("no database"), ended("no database")])
def test_output_outlives_the_rollback(status: pb.ServiceStatus) -> None:
    store = rolling_store(*THREE)
    store.report("n1", status)
    store.converge()
    assert store.phase() == "ROLLING_BACK"
    assert recorded(store) == [("n1", "web", 2, ["no database"])]
    settle(store, "n1")
    assert store.phase() == "FAILED"
    assert recorded(store) == [("n1", "web", 2, ["no database"])]


def test_events_about_the_failure_have_the_output() -> None:
    store = rolling_store(*THREE)
    store.report("n1", unhealthy("no database"))
    store.converge()
    settle(store, "n1")
    with_output = {event.code for event in store.events if list(event.log_lines) == ["no database"]}
    assert with_output == {"rollout_rolling_back", "rollout_failed"}


def test_next_release_begins_without_failures() -> None:
    store = rolling_store(*THREE)
    store.report("n1", unhealthy("no database"))
    store.converge()
    store.deploy(3, web(3))
    store.converge()
    assert store.rollout().release == 3
    assert recorded(store) == []


def test_progress_deadline_records_what_did_not_settle() -> None:
    store = rolling_store(*THREE, deadline=60)
    store.report("n1", unhealthy("still waiting", failed=False))
    store.converge()
    store.seconds = 60
    store.converge()
    assert store.phase() == "ROLLING_BACK"
    assert recorded(store) == [("n1", "web", 2, ["still waiting"])]


def first_release() -> Store:
    store = Store()
    store.add_node("n1", "web")
    store.set_environment("n1")
    store.deploy(1, service("web"))
    store.converge()
    return store


def test_crash_loop_does_not_rewrite_the_rollout_for_its_output() -> None:
    store = first_release()
    store.report("n1", ended())
    store.converge()
    store.report("n1", ended("first"))
    store.converge()
    assert recorded(store) == [("n1", "web", 1, ["first"])], "output that came later is better than none"
    store.report("n1", ended("second"))
    assert not store.plan().actions


def test_failures_end_with_the_failure() -> None:
    store = first_release()
    store.report("n1", ended("cannot bind"))
    store.converge()
    assert store.phase() == "FAILED"
    store.report("n1")
    store.converge()
    assert (store.phase(), recorded(store)) == ("SETTLED", [])


def test_equal_failures_of_many_nodes_are_recorded_once_and_few_in_total() -> None:
    store = rolling_store(*(f"n{number}" for number in range(8)), parallel="8")
    for number in range(8):
        store.report(f"n{number}", ended() if number < 2 else ended("same") if number < 5 else ended(str(number)))
    store.converge()
    assert [lines for *_, lines in recorded(store)] == [["same"], ["5"], ["6"]]


def test_node_on_which_nothing_can_start_fails_the_release_at_once() -> None:
    store = first_release()
    store.report("n1", service_status("web", phase=pb.ServiceStatus.PENDING), phase="FAILED", problem=NO_NETWORK)
    store.converge()
    assert (store.phase(), store.rollout().reason) == ("FAILED", f"no service can be started on n1: {NO_NETWORK}")
    assert store.progress("n1").phase == pb.NodeProgress.FAILED
    store.report("n1")
    store.converge()
    assert store.phase() == "SETTLED"


def test_rollback_that_cannot_start_either_ends_at_once_and_goes_on() -> None:
    store = rolling_store(*THREE)
    blocked = service_status("web", phase=pb.ServiceStatus.PENDING)
    store.report("n1", blocked, phase="FAILED", problem=NO_NETWORK)
    store.converge()
    assert (store.phase(), at(store, "n1")) == ("ROLLING_BACK", [1])
    store.report("n1", blocked, phase="FAILED", problem=NO_NETWORK)
    store.converge()
    assert store.phase() == "FAILED"
    why = f"no service can be started on n1: {NO_NETWORK}"
    assert store.rollout().reason == f"{why}; release 1 cannot run again for the same reason"
    settle(store, "n1")
    assert store.rollout().reason.endswith("release 1 runs again")


def test_release_task_fails_where_nothing_can_start() -> None:
    store = Store()
    store.add_node("n1", "web", "worker")
    store.set_environment("n1")
    store.deploy(1, service("web"), task=workload_pb2.Task(name="migrate", service="web"))
    store.converge()
    task = pb.TaskStatus(name="migrate", service="web", release=1, phase=pb.TaskStatus.WAITING)
    store.report("n1", phase="FAILED", problem=NO_NETWORK, task=task)
    store.converge()
    assert store.phase() == "FAILED"
    assert NO_NETWORK in store.rollout().reason


def test_lost_node_is_an_event_and_so_is_its_return() -> None:
    store = rolling_store(*THREE)
    become_unreachable(store, "n3")
    store.converge()
    assert codes(store, 2).count("node_lost") == 1
    (event,) = [event for event in store.events if event.code == "node_lost"]
    assert (event.severity, event.node) == (pb.Event.WARNING, "n3")
    assert "no heartbeat" in event.message
    come_back(store, "n3")
    store.converge()
    assert codes(store, 2).count("node_back") == 1


def test_service_that_the_release_task_waits_for_is_recorded_with_its_output() -> None:
    store = Store()
    store.add_node("n1", "web", "worker")
    store.set_environment("n1")
    store.deploy(1, service("web"), task=workload_pb2.Task(name="migrate", service="web"))
    store.converge()
    store.report_task("n1", "WAITING", ended("cannot bind"))
    store.converge()
    assert (store.phase(), recorded(store)) == ("FAILED", [("n1", "web", 1, ["cannot bind"])])
