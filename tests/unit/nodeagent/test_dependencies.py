"""Who is started after whom, and stopped before whom."""

from __future__ import annotations

import pytest

from devopsellence.api.v1 import workload_pb2
from devopsellence.nodeagent.plan.dependencies import Standing, cycles, held_by, order, waits
from tests.unit.nodeagent.support import COMPLETED, HEALTHY, STARTED, service

NOTHING = Standing(started=False, ready=False, completed=False, reason="pulling redis")
UP = Standing(started=True, ready=False, completed=False, reason="not healthy yet: connection refused")
READY = Standing(started=True, ready=True, completed=False)
DONE = Standing(started=False, ready=False, completed=True)


@pytest.mark.parametrize(
    ("condition", "standing", "expected"),
    [
        (STARTED, NOTHING, "waits for redis to be started: pulling redis"),
        (STARTED, UP, ""),
        (STARTED, DONE, ""),
        (workload_pb2.Dependency.CONDITION_UNSPECIFIED, NOTHING, "waits for redis to be started: pulling redis"),
        (HEALTHY, NOTHING, "waits for redis to be healthy: pulling redis"),
        (HEALTHY, UP, "waits for redis to be healthy: not healthy yet: connection refused"),
        (HEALTHY, READY, ""),
        (HEALTHY, DONE, ""),
        (COMPLETED, READY, "waits for redis to complete"),
        (COMPLETED, DONE, ""),
    ],
)
def test_conditions(condition: workload_pb2.Dependency.Condition.ValueType, standing: Standing, expected: str) -> None:
    assert waits(service(after={"redis": condition}), {"redis": standing}) == expected


def test_one_that_this_node_does_not_run_is_not_waited_for() -> None:
    assert waits(service(after={"redis": HEALTHY}), {}) == ""


def test_all_that_is_missing_is_named() -> None:
    made = service(after={"redis": HEALTHY, "job": COMPLETED, "db": STARTED})
    said = waits(made, {"redis": READY, "job": READY, "db": NOTHING})
    assert said == "waits for job to complete; for db to be started: pulling redis"


def test_a_cycle_is_shown_and_what_is_not_in_it_is_left_alone() -> None:
    said = cycles([
        service("a", after={"b": STARTED}),
        service("b", after={"c": STARTED}),
        service("c", after={"a": HEALTHY}),
        service("d", after={"a": STARTED}),
        service("e", after={"e": STARTED}),
    ])  # fmt: skip
    assert said == {
        "a": "it depends on itself: a → b → c → a",
        "b": "it depends on itself: b → c → a → b",
        "c": "it depends on itself: c → a → b → c",
        "e": "it depends on itself: e → e",
    }


def test_dependencies_come_first_and_strangers_not_at_all() -> None:
    assert list(order({"web": ["redis", "elsewhere"], "redis": ["volume"], "volume": []})) == ["volume", "redis", "web"]


def test_what_leaves_is_held_by_those_that_depend_on_it() -> None:
    assert held_by("redis", {"redis": ["web", "worker"]}) == ["web", "worker"]
    assert held_by("web", {"redis": ["web", "worker"]}) == []


def test_those_that_hold_each_other_do_not() -> None:
    round_ = {"a": ["b"], "b": ["c"], "c": ["a"], "x": ["a", "x"]}
    assert [held_by(name, round_) for name in "abc"] == [[], [], []]
    assert held_by("x", round_) == ["a"]
