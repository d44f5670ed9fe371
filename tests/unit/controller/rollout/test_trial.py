"""First minute of a release: what fails in it fails the release, although it had settled."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.model.snapshot import NodeView
from devopsellence.controller.rollout.node_progress import PlannedNode, progress_of
from devopsellence.controller.rollout.trial import NodeTrial, ReleaseTrial, trial_of
from devopsellence.store.record import Record
from tests.unit.controller.builders import KEYS, REF, Store, app, node, service_status

S = pb.ServiceStatus
WHY = 'service "jobs" on n1: ended by itself (exit code 1)'


def new(name: str, **fields: object) -> pb.ServiceStatus:
    """Return the status of a service that has been started less than a minute ago."""
    return service_status(name, **{"lasted": False, **fields})


def ended(name: str, *, failed: bool = False, lasted: bool = False) -> pb.ServiceStatus:
    result = service_status(name, phase=S.BACKOFF, reason="ended by itself", lasted=lasted, failed=failed)
    result.last_exit.code = 1
    return result


def environment(number: int = 1) -> Store:
    """Return an environment with one node, whose release ``number`` has just settled."""
    store = Store()
    store.add_node("n1", "web", "worker")
    store.set_environment("n1")
    for release in range(1, number + 1):
        deploy(store, release)
        store.report(
            "n1", *(service_status(name, lasted=release != number) for name in ("jobs", "web")), phase="SETTLED"
        )
        store.converge()
    assert (store.phase(), store.rollout().provisional) == ("SETTLED", True)
    store.events.clear()
    return store


def deploy(store: Store, number: int, **more: object) -> None:
    store.deploy(number, app(number), app(number, "jobs", "worker"), **more)
    store.converge()


def codes(store: Store) -> list[str]:
    return [event.code for event in store.events if event.code.startswith("rollout")]


def trial(*services: pb.ServiceStatus, generation: int = 1, alive: bool = True, release: int = 1) -> ReleaseTrial:
    assignment = pb.Assignment(node="n1", node_uid="uid-n1", generation=1, release=1)
    assignment.services.extend(app(1, service.name) for service in services)
    status = pb.AssignmentStatus(
        node="n1",
        node_uid="uid-n1",
        generation=generation,
        release=1,
        services=services,
        phase=pb.AssignmentStatus.SETTLED,
    )
    beat = Record(KEYS.heartbeat("n1"), pb.Heartbeat(node="n1", uid="uid-n1"), None, 1, 1) if alive else None
    view = NodeView(
        "n1",
        Record(KEYS.node("n1"), node("n1", "web"), None, 1, 1),
        beat,
        Record(KEYS.assignment("n1", REF), assignment, None, 1, 1),
        Record(KEYS.status("n1", REF), status, None, 1, 1),
    )
    planned = PlannedNode(view, assignment)
    return trial_of([planned], [progress_of(planned)], release)


@pytest.mark.parametrize(
    ("services", "expected"),
    [
        pytest.param([service_status("web", lasted=True)], NodeTrial(), id="lasted"),
        pytest.param([service_status("web")], NodeTrial(), id="reported by an earlier version"),
        pytest.param([new("web")], NodeTrial(lasted=False), id="new"),
        pytest.param([new("web", phase=S.PULLING)], NodeTrial(), id="never started"),
        pytest.param([ended("jobs")], NodeTrial(lasted=False, first_failure=WHY), id="ended once"),
        pytest.param([ended("jobs", failed=True)], NodeTrial(False, WHY, WHY), id="ended again and again"),
        pytest.param([ended("jobs", failed=True, lasted=True)], NodeTrial(), id="ends long after"),
        pytest.param([new("jobs", failed=True)], NodeTrial(lasted=False), id="failed for another reason"),
    ],
)
def test_trial_of_a_node(services: Sequence[pb.ServiceStatus], expected: NodeTrial) -> None:
    found = trial(*services)
    given_up = (("n1", expected.given_up),) if expected.given_up else ()
    assert (found.lasted, found.first_failure, found.given_up) == (expected.lasted, expected.first_failure, given_up)


def test_trial_leaves_out_nodes_that_are_not_waited_for_and_other_releases() -> None:
    assert trial(ended("jobs", failed=True), alive=False) == ReleaseTrial()
    assert trial(ended("jobs", failed=True), release=2) == ReleaseTrial()


def test_trial_of_a_node_that_reports_about_an_earlier_generation_has_not_ended() -> None:
    assert trial(service_status("web", lasted=True), generation=0) == ReleaseTrial(lasted=False)


def test_release_that_lasts_a_minute_stays_settled_whatever_comes() -> None:
    store = environment(2)
    store.report("n1", *(service_status(name, lasted=True) for name in ("jobs", "web")), phase="SETTLED")
    store.converge()
    assert not store.rollout().provisional
    store.report("n1", ended("jobs", failed=True, lasted=True), service_status("web", lasted=True), phase="FAILED")
    store.converge()
    assert (store.phase(), store.rollout().target, store.rollout().reason) == ("SETTLED", 2, WHY)
    assert codes(store) == []


def test_release_that_ends_again_and_again_in_its_first_minute_is_rolled_back() -> None:
    store = environment(2)
    store.report("n1", ended("jobs"), new("web"))
    store.converge()
    assert (store.phase(), store.rollout().first_failure) == ("SETTLED", WHY)
    store.report("n1", ended("jobs", failed=True), new("web"), phase="FAILED")
    store.converge()
    assert (store.phase(), store.rollout().target) == ("ROLLING_BACK", 1)
    assert store.rollout().halted == f"it had settled, but {WHY}"
    store.report("n1")
    store.converge()
    assert (store.phase(), store.rollout().target) == ("FAILED", 1)
    assert not store.rollout().provisional
    assert codes(store) == ["rollout_rolling_back", "rollout_rolled_back", "rollout_failed"]


def test_first_release_that_ends_again_and_again_fails_and_recovers() -> None:
    store = environment(1)
    store.report("n1", ended("jobs", failed=True), new("web"), phase="FAILED")
    store.converge()
    assert (store.phase(), codes(store)) == ("FAILED", ["rollout_failed"])
    store.report("n1")
    store.converge()
    assert (store.phase(), store.rollout().provisional) == ("SETTLED", False)


def test_release_with_on_failure_halt_halts_after_it_had_settled() -> None:
    store = environment(1)
    deploy(store, 2, halt=True)
    store.report("n1", new("jobs"), new("web"), phase="SETTLED")
    store.converge()
    assert (store.phase(), store.rollout().provisional) == ("SETTLED", True)
    store.report("n1", ended("jobs", failed=True), new("web"), phase="FAILED")
    store.converge()
    assert (store.phase(), store.rollout().target, store.rollout().halted) == (
        "FAILED",
        2,
        f"it had settled, but {WHY}",
    )


def test_next_leader_decides_the_same_from_etcd_alone() -> None:
    store = environment(2)
    store.report("n1", ended("jobs", failed=True), new("web"), phase="FAILED")
    # A new leader: no stopwatch, and clocks of its own.
    store.stopwatch, store.seconds = None, -7200.0
    store.converge()
    assert (store.phase(), store.rollout().target) == ("ROLLING_BACK", 1)


@pytest.mark.parametrize(
    ("failure", "phase", "goes_back_to"),
    [(False, "SETTLED", 2), (True, "SUPERSEDED", 1)],
    ids=["nothing had failed", "something had failed"],
)
def test_release_superseded_in_its_first_minute_counts_if(failure: bool, phase: str, goes_back_to: int) -> None:
    store = environment(2)
    if failure:
        store.report("n1", ended("jobs"), new("web"))
        store.converge()
        # It runs again when the next release comes.
        store.report("n1", new("jobs"), new("web"), phase="SETTLED")
        store.converge()
    deploy(store, 3)
    (last, *_) = store.rollout().history
    assert (last.release, pb.Rollout.Phase.Name(last.phase)) == (2, phase)
    assert store.rollout().last_settled == goes_back_to
    assignment = store.assignment("n1")
    assert assignment is not None
    assert assignment.last_settled == goes_back_to


def test_rollout_of_an_earlier_version_is_not_on_trial() -> None:
    store = environment(2)
    rollout = store.rollout()
    rollout.provisional = False
    store.put(KEYS.rollout(REF), rollout)
    store.report("n1", ended("jobs", failed=True), new("web"), phase="FAILED")
    store.converge()
    assert (store.phase(), store.rollout().target, store.rollout().provisional) == ("SETTLED", 2, False)
