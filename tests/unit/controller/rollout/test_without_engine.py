"""Nodes whose agent answers and whose Docker Engine is gone: left out, as unreachable ones."""

from __future__ import annotations

from devopsellence.api.v1 import stored_pb2 as pb
from tests.unit.controller.batch_builders import at, phase_of, settle, settled_store
from tests.unit.controller.builders import KEYS, Store, app, migration

WITHOUT = "the Docker Engine does not answer: connection refused"


def lose_engine(store: Store, name: str, *, gone: bool = True) -> None:
    beat = pb.Heartbeat(node=name, uid=f"uid-{name}", without_engine=gone, problem=WITHOUT if gone else "")
    store.put(KEYS.heartbeat(name), beat)


def test_rollout_leaves_out_node_without_engine_which_catches_up() -> None:
    store = settled_store("n1", "n2", "n3")
    lose_engine(store, "n2")
    store.deploy(2, app(2), parallel="1")
    store.converge()
    settle(store, "n1")
    settle(store, "n3")
    assert (at(store, "n1", "n2", "n3"), store.phase()) == ([2, 1, 2], "SETTLED")
    assert phase_of(store, "n2") == "UNREACHABLE"
    assert store.rollout().reason == f"n2 has no Docker Engine: {WITHOUT}; it is not waited for"
    lose_engine(store, "n2", gone=False)
    store.converge()
    settle(store, "n2")
    assert (at(store, "n2"), store.rollout().reason) == ([2], "")


def test_engine_lost_midway_fails_no_release() -> None:
    store = settled_store("n1", "n2")
    store.deploy(2, app(2), parallel="1")
    store.converge()
    assert at(store, "n1", "n2") == [2, 1]
    lose_engine(store, "n1")
    store.seconds += 10_000
    store.converge()
    settle(store, "n2")
    assert (at(store, "n1", "n2"), store.phase()) == ([2, 2], "SETTLED")


def test_release_task_begins_on_node_with_engine() -> None:
    store = settled_store("n1", "n2")
    lose_engine(store, "n1")
    store.deploy(2, app(2), task=migration())
    store.converge()
    assert store.task().node == "n2"


def test_release_task_waits_for_the_only_node_without_engine() -> None:
    store = settled_store("n1")
    lose_engine(store, "n1")
    store.deploy(2, app(2), task=migration())
    store.converge()
    assert store.rollout().reason.endswith("; the release task waits for it")
