"""Order of starts and stops."""

from __future__ import annotations

import pytest

from devopsellence.api.v1 import workload_pb2
from devopsellence.nodeagent.plan.dependencies import (
    DependencyState,
    UnmetDependencies,
    dependency_cycles,
    start_order,
    stops_after,
    unmet_dependencies,
)
from tests.unit.nodeagent.planning import COMPLETED, HEALTHY, STARTED, service

NOTHING = DependencyState(ready=False, completed=False, reason="pulling redis")
UP = DependencyState(ready=False, completed=False, reason="not healthy yet: connection refused")
READY = DependencyState(ready=True, completed=False)
DONE = DependencyState(ready=False, completed=True)


@pytest.mark.parametrize(
    ("condition", "standing", "expected"),
    [
        (STARTED, NOTHING, "waits for redis to be ready: pulling redis"),
        (STARTED, UP, "waits for redis to be ready: not healthy yet: connection refused"),
        (STARTED, READY, ""),
        (STARTED, DONE, ""),
        (workload_pb2.Dependency.CONDITION_UNSPECIFIED, NOTHING, "waits for redis to be ready: pulling redis"),
        (HEALTHY, NOTHING, "waits for redis to be healthy: pulling redis"),
        (HEALTHY, UP, "waits for redis to be healthy: not healthy yet: connection refused"),
        (HEALTHY, READY, ""),
        (HEALTHY, DONE, ""),
        (COMPLETED, READY, "waits for redis to complete"),
        (COMPLETED, DONE, ""),
    ],
)
def test_condition_decides_if_a_dependency_is_met(
    condition: workload_pb2.Dependency.Condition.ValueType, standing: DependencyState, expected: str
) -> None:
    assert unmet_dependencies(service(after={"redis": condition}), {"redis": standing}).reason == expected


def test_dependency_on_another_node_is_not_waited_for() -> None:
    assert unmet_dependencies(service(after={"redis": HEALTHY}), {}) == UnmetDependencies()


def test_every_unmet_dependency_is_named() -> None:
    spec = service(after={"redis": HEALTHY, "job": COMPLETED, "db": STARTED})
    unmet = unmet_dependencies(spec, {"redis": READY, "job": READY, "db": NOTHING})
    assert unmet.reason == "waits for job to complete; for db to be ready: pulling redis"
    assert unmet.services == ("job", "db")


def test_cycle_is_a_problem_of_its_members_only() -> None:
    problem = dependency_cycles([
        service("a", after={"b": STARTED}),
        service("b", after={"c": STARTED}),
        service("c", after={"a": HEALTHY}),
        service("d", after={"a": STARTED}),
        service("e", after={"e": STARTED}),
    ])  # fmt: skip
    assert problem == {
        "a": "it depends on itself: a → b → c → a",
        "b": "it depends on itself: b → c → a → b",
        "c": "it depends on itself: c → a → b → c",
        "e": "it depends on itself: e → e",
    }


def test_start_order_has_dependencies_first_and_no_foreign_services() -> None:
    assert list(start_order({"web": ["redis", "elsewhere"], "redis": ["volume"], "volume": []})) == [
        "volume",
        "redis",
        "web",
    ]


def test_removed_service_waits_for_its_dependents() -> None:
    assert stops_after("redis", {"redis": ["web", "worker"]}) == ["web", "worker"]
    assert stops_after("web", {"redis": ["web", "worker"]}) == []


def test_mutual_dependents_do_not_block_removal() -> None:
    round_ = {"a": ["b"], "b": ["c"], "c": ["a"], "x": ["a", "x"]}
    assert [stops_after(name, round_) for name in "abc"] == [[], [], []]
    assert stops_after("x", round_) == ["a"]
