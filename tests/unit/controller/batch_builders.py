"""Builders for tests of rollouts in batches."""

from __future__ import annotations

from typing import Any

from devopsellence.api.v1 import stored_pb2 as pb
from tests.unit.controller.builders import KEYS, Store, crashed, service


def web(version: int) -> Any:
    return service("web", image=f"app:{version}")


def settled_store(*names: str) -> Store:
    """``names``, all web, have settled at release 1."""
    store = Store()
    for name in names:
        store.add_node(name, "web")
    store.set_environment(*names)
    store.deploy(1, web(1))
    store.converge()
    for name in names:
        store.report(name)
    store.converge()
    assert store.phase() == "SETTLED"
    return store


def rolling_store(*names: str, **policy: Any) -> Store:
    """Release 2 has just been planned where ``names`` have settled at release 1; one node at a time unless said."""
    store = settled_store(*names)
    store.deploy(2, web(2), **{"parallel": "1", **policy})
    store.converge()
    return store


def at(store: Store, *names: str) -> list[int]:
    """The releases that ``names`` are assigned; 0: none."""
    found = [store.assignment(name) for name in names]
    return [one.release if one is not None and not one.removed else 0 for one in found]


def phase_of(store: Store, name: str) -> str:
    return pb.NodeProgress.Phase.Name(store.progress(name).phase)


def settle(store: Store, *names: str) -> None:
    for name in names:
        store.report(name)
    store.converge()


def fail(store: Store, name: str) -> None:
    store.report(name, crashed("web", code=3, failed=True))
    store.converge()


def become_unreachable(store: Store, *names: str) -> None:
    for name in names:
        store.delete(KEYS.heartbeat(name))
    store.converge()


def come_back(store: Store, *names: str) -> None:
    for name in names:
        store.put(KEYS.heartbeat(name), pb.Heartbeat(node=name, uid=f"uid-{name}"))
    store.converge()


def drain(store: Store, name: str) -> None:
    found = store.records[KEYS.node(name)].message
    assert isinstance(found, pb.Node)
    node = pb.Node()
    node.CopyFrom(found)
    node.cordoned = True
    node.drain.requested_by = "ann"
    store.put(KEYS.node(name), node)
    store.converge()


def outcomes(store: Store) -> list[tuple[int, str]]:
    return [(outcome.release, pb.Rollout.Phase.Name(outcome.phase)) for outcome in store.rollout().history]


def codes(store: Store, release: int) -> list[str]:
    """Return the codes of the events about ``release``, without assignments."""
    return [
        event.code for event in store.events if event.release == release and not event.code.startswith("assignment")
    ]


def generation(store: Store, name: str) -> int:
    assignment = store.assignment(name)
    return assignment.generation if assignment is not None else 0
