"""Ingress in assignments: nodes with all target services of its rules."""

from __future__ import annotations

import pytest

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.api.v1 import workload_pb2
from devopsellence.controller.ingress.rules import reaches
from devopsellence.controller.model.hosts import hosts_of
from tests.unit.controller.builders import KEYS, REF, Store, app, migration, service
from tests.unit.controller.ingress_builders import HOST, WEB, ingress, serving_store, settle

API = service("api", "worker")
REDIS = service("redis", "worker")


def has_ingress(store: Store, name: str) -> bool:
    assignment = store.assignment(name)
    assert assignment is not None
    return assignment.HasField("ingress")


def two_kinds() -> Store:
    """n1 (web, worker), n2 (web), n3 (worker), attached, without a release."""
    store = Store()
    store.add_node("n1", "web", "worker")
    store.add_node("n2", "web")
    store.add_node("n3", "worker")
    store.set_environment("n1", "n2", "n3")
    return store


@pytest.mark.parametrize(
    ("targets", "serving"),
    [
        pytest.param(["web"], ["n1", "n2"], id="one service: all that run it"),
        pytest.param(["web", "api"], ["n1"], id="two: who runs both"),
        pytest.param(["api"], ["n1", "n3"], id="a worker can be a target too"),
        pytest.param(["web", "gone"], [], id="a service that the release does not have: nobody"),
        pytest.param([], [], id="no rule: nobody"),
    ],
)
def test_node_with_all_targets_serves(targets: list[str], serving: list[str]) -> None:
    store = two_kinds()
    made = ingress(HOST, to=targets, redirect_http=True)
    made.drain_timeout.FromSeconds(45)
    store.deploy(1, WEB, API, REDIS, ingress=made)
    store.converge()
    assert [name for name in ("n1", "n2", "n3") if has_ingress(store, name)] == serving
    for name in serving:
        assignment = store.assignment(name)
        assert assignment is not None
        assert assignment.ingress == made


def test_release_without_ingress_assigns_none() -> None:
    store = two_kinds()
    store.deploy(1, WEB)
    store.converge()
    assert not has_ingress(store, "n1")


def test_label_that_is_removed_takes_ingress_with_service() -> None:
    store = two_kinds()
    store.deploy(1, WEB, API, ingress=ingress(HOST, to=["web", "api"]))
    settle(store)
    store.add_node("n1", "web")
    settle(store)
    assignment = store.assignment("n1")
    assert assignment is not None
    assert [service.name for service in assignment.services] == ["web"]
    assert not assignment.HasField("ingress")
    assert assignment.generation == 2


def drain(store: Store, name: str, *labels: str) -> None:
    node = pb.Node(name=name, uid=f"uid-{name}", labels=sorted(labels), cordoned=True, drain=pb.Drain())
    store.put(KEYS.node(name), node)
    store.converge()


def test_drained_node_goes_on_serving_without_services() -> None:
    store = serving_store("n1", "n2")
    drain(store, "n1", "web")
    assert store.assigned("n1") == []
    assert has_ingress(store, "n1")
    # By the rules of what runs on the others.
    store.deploy(2, WEB, ingress=ingress("other.example.com"))
    settle(store)
    for name in ("n1", "n2"):
        assignment = store.assignment(name)
        assert assignment is not None
        assert list(assignment.ingress.hosts) == ["other.example.com"]


def test_drained_node_that_keeps_a_target_keeps_its_rules() -> None:
    store, stateful = two_kinds(), service("api", "worker")
    stateful.volumes.add(source="data", target="/data")
    store.deploy(1, WEB, stateful, ingress=ingress(HOST, to=["web", "api"]))
    settle(store)
    drain(store, "n1", "web", "worker")
    # Its data is here.
    assert store.assigned("n1") == ["api"]
    store.deploy(2, WEB, stateful, ingress=ingress("other.example.com", to=["web", "api"]))
    settle(store)
    assignment = store.assignment("n1")
    assert assignment is not None
    assert list(assignment.ingress.hosts) == [HOST]


def test_drained_node_without_ingress_gets_none() -> None:
    store = two_kinds()
    store.deploy(1, WEB, API, ingress=ingress(HOST, to=["web"]))
    settle(store)
    drain(store, "n3", "worker")
    assert not has_ingress(store, "n3")


def test_cordoned_node_goes_on_serving_what_it_served() -> None:
    store = serving_store("n1")
    store.add_node("n1", "web", cordoned=True)
    store.deploy(2, WEB, ingress=ingress("other.example.com"))
    settle(store)
    assignment = store.assignment("n1")
    assert assignment is not None
    assert list(assignment.ingress.hosts) == [HOST]


def test_another_ingress_alone_is_another_generation() -> None:
    store = serving_store("n1")
    store.deploy(2, WEB, ingress=ingress("other.example.com"))
    store.converge()
    assignment = store.assignment("n1")
    assert assignment is not None
    assert (list(assignment.ingress.hosts), assignment.generation) == (["other.example.com"], 2)


def test_during_release_task_it_stays_what_it_was() -> None:
    store = Store()
    store.add_node("n1", "web")
    store.set_environment("n1")
    store.deploy(1, app(1), ingress=ingress(HOST))
    settle(store)
    store.deploy(2, app(2), ingress=ingress("other.example.com"), task=migration())
    store.converge()
    found = store.assignment("n1")
    assert found is not None
    assert found.HasField("task")
    assert list(found.ingress.hosts) == [HOST]
    store.report_task("n1", "SUCCEEDED", code=0)
    store.converge()
    found = store.assignment("n1")
    assert found is not None
    assert list(found.ingress.hosts) == ["other.example.com"]


def test_before_first_release_task_has_succeeded_there_is_none() -> None:
    store = Store()
    store.add_node("n1", "web")
    store.set_environment("n1")
    store.deploy(1, app(1), ingress=ingress(HOST), task=migration())
    store.converge()
    assert not has_ingress(store, "n1")


def test_replaced_machine_serves_nothing_before_release_task() -> None:
    store = Store()
    store.add_node("n1", "web")
    store.set_environment("n1")
    store.deploy(1, app(1), ingress=ingress(HOST))
    settle(store)
    store.add_node("n1", "web", uid="another")
    store.deploy(2, app(2), ingress=ingress(HOST), task=migration())
    store.converge()
    assert not has_ingress(store, "n1")


def test_assignment_of_earlier_version_is_completed_without_warning() -> None:
    store = serving_store("n1")
    assignment = store.assignment("n1")
    assert assignment is not None
    old = pb.Assignment()
    old.CopyFrom(assignment)
    old.ClearField("ingress")
    store.put(KEYS.assignment("n1", REF), old)
    planned = store.step()
    assert has_ingress(store, "n1")
    assert [event.message for event in planned.events] == [f"n1: release 1 routes {HOST} to it"]
    assert [event.severity for event in planned.events] == [pb.Event.INFO]


@pytest.mark.parametrize(
    ("phase", "said"),
    [
        pytest.param("FAILED", "ingress on n1: port 80 is taken", id="failed: said"),
        pytest.param("STARTING", "", id="starting"),
        pytest.param("SERVING", "", id="serving"),
    ],
)
def test_ingress_that_fails_is_reported_and_fails_no_rollout(phase: str, said: str) -> None:
    store = serving_store("n1", "n2")
    assert store.rollout().reason == ""
    status = pb.IngressStatus(phase=pb.IngressStatus.Phase.Value(phase), reason="port 80 is taken")
    store.report("n1", ingress=status)
    store.converge()
    assert (store.phase(), store.rollout().reason) == ("SETTLED", said)
    assert store.progress("n1").phase == pb.NodeProgress.SETTLED
    assert store.progress("n1").reason == said
    store.report("n1")
    store.converge()
    assert (store.phase(), store.rollout().reason) == ("SETTLED", "")


def test_status_of_ingress_that_is_not_assigned_any_more_says_nothing() -> None:
    store = serving_store("n1")
    store.deploy(2, WEB)
    store.converge()
    store.report("n1", ingress=pb.IngressStatus(phase=pb.IngressStatus.FAILED, reason="port 80 is taken"))
    store.converge()
    assert (store.phase(), store.rollout().reason) == ("SETTLED", "")


# What it refers to


def test_hosts_are_in_lower_case_once_and_without_what_can_be_none() -> None:
    made = ingress("B.example.com", "b.example.com", "a.example.com", "x_y.example.com", "c.example.com:8080", "")
    assert hosts_of(made) == ["a.example.com", "b.example.com"]


def test_ingress_without_rules_is_assigned_to_no_node() -> None:
    assert not reaches(workload_pb2.Ingress(hosts=[HOST]), ["web"])
