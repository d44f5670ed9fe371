"""Assignments too large for etcd: the release fails with the reason, and nothing is retried for ever."""

from __future__ import annotations

from typing import Any

import pytest

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.api.v1.workload_pb2 import SecretRef, Service
from devopsellence.store.codec import encode
from devopsellence.store.size import MAX_RECORD_BYTES, check_writes
from tests.unit.controller.batch_builders import at, settle, settled_store
from tests.unit.controller.builders import KEYS, REF, Store, app, migration, service

BIG = "x" * (MAX_RECORD_BYTES // 10)


def _store_secret(store: Store, name: str, size: int, *versions: int, service: str = "web") -> None:
    record = pb.Secret(
        organization=REF.organization,
        project=REF.project,
        environment=REF.environment,
        service=service,
        name=name,
        versions=[pb.SecretVersion(version=version, age="x" * size, recipients=["n1"]) for version in versions],
    )
    store.put(KEYS.secret(REF, service, name), record)


def _with_large_secrets(store: Store, number: int, **more: Any) -> None:
    for secret in range(12):
        _store_secret(store, f"S{secret}", len(BIG), 1)
    store.deploy(number, _with_secrets(12), **more)


def _with_secrets(count: int) -> Service:
    result = service("web")
    result.secret_refs.extend(SecretRef(name=f"S{n}", secret=f"S{n}", version=1) for n in range(count))
    return result


def _everything_can_be_written(store: Store) -> None:
    for name in store.attached():
        if (assignment := store.assignment(name)) is not None:
            check_writes([(KEYS.assignment(name, REF), encode(assignment))])


@pytest.mark.parametrize("halt", [False, True], ids=["rolls back", "halts"])
def test_release_with_oversized_assignment_fails_before_any_node_updates(halt: bool) -> None:
    store = settled_store("n1", "n2")
    _with_large_secrets(store, 2, halt=halt)
    store.converge()
    assert at(store, "n1", "n2") == [1, 1]
    settle(store, "n1", "n2")
    assert store.phase() == "FAILED"
    rollout = store.rollout()
    assert rollout.reason.startswith(
        "the assignment of release 2 for n1 is too large for etcd: 1692 KiB, 288 KiB more than the "
    )
    assert "; most of it is secrets (" in rollout.reason
    assert rollout.target == (2 if halt else 1)
    assert not store.plan().actions
    _everything_can_be_written(store)


def test_first_release_with_oversized_assignment_fails_and_the_next_one_runs() -> None:
    store = Store()
    store.add_node("n1", "web")
    store.set_environment("n1")
    _with_large_secrets(store, 1)
    store.converge()
    assert store.phase() == "FAILED"
    assert "the assignment of release 1 for n1 is too large for etcd" in store.rollout().reason
    assert store.assignment("n1") is None
    assert not store.plan().actions
    store.deploy(2, service("web"))
    store.converge()
    settle(store, "n1")
    assert (store.phase(), store.rollout().reason) == ("SETTLED", "")


def test_other_nodes_do_not_update_to_a_release_that_one_node_cannot_get() -> None:
    store = Store()
    store.add_node("n1", "web")
    store.add_node("n2", "worker")
    store.set_environment("n1", "n2")
    store.deploy(1, service("web"), service("job", "worker"))
    store.converge()
    settle(store, "n1", "n2")
    large = service("job", "worker", image="job:2")
    for number in range(12):
        large.env[f"E{number}"] = BIG
    store.deploy(2, service("web", image="app:2"), large)
    store.converge()
    assert at(store, "n1", "n2") == [1, 1]
    assert "services job env" in store.rollout().reason


def test_oversized_preparation_of_a_release_task_fails_the_release() -> None:
    store = settled_store("n1")
    former = app(1)
    for number in range(6):
        former.env[f"E{number}"] = BIG
    store.deploy(2, former)
    store.converge()
    settle(store, "n1")
    assert store.phase() == "SETTLED"
    # Each version fits, but not the old one beside the task of the new one.
    after = app(2)
    for number in range(6):
        after.env[f"F{number}"] = BIG
    store.deploy(3, after, task=migration())
    store.converge()
    settle(store, "n1")
    assert store.phase() == "FAILED"
    assert "the assignment of release 3 for n1 is too large for etcd" in store.rollout().reason
    assert not store.plan().actions
    _everything_can_be_written(store)


def test_node_attached_later_that_cannot_get_its_assignment_is_named() -> None:
    """The release has settled and stays so."""
    store = Store()
    store.add_node("n1", "worker")
    store.add_node("n2", "web", "worker")
    store.add_node("n3", "web")
    store.set_environment("n1", "n3")
    large = service("job", "worker")
    for number in range(6):
        large.env[f"E{number}"] = BIG
        _store_secret(store, f"S{number}", len(BIG), 1)
    store.deploy(1, large, _with_secrets(6))
    store.converge()
    settle(store, "n1", "n3")
    assert (store.phase(), store.rollout().reason) == ("SETTLED", "")
    store.set_environment("n1", "n2", "n3", latest=1)
    store.converge()
    assert store.phase() == "SETTLED"
    assert "the assignment of release 1 for n2 is too large for etcd" in store.rollout().reason
    assert store.assignment("n2") is None
    assert not store.plan().actions


def test_secrets_that_grow_beyond_the_limit_leave_the_assignment_as_it_is() -> None:
    """As after an encryption for many more nodes."""
    store = Store()
    store.add_node("n1", "web", cordoned=False)
    store.set_environment("n1")
    for secret in range(12):
        _store_secret(store, f"S{secret}", 1000, 1)
    store.deploy(1, _with_secrets(12))
    store.converge()
    settle(store, "n1")
    store.add_node("n1", "web", cordoned=True)
    before = store.assignment("n1")
    for secret in range(12):
        _store_secret(store, f"S{secret}", len(BIG), 1)
    store.converge()
    assert store.assignment("n1") == before
    assert store.phase() == "SETTLED"
    assert "too large for etcd" in store.rollout().reason
    assert "it stays as it is" in store.rollout().reason
    assert not store.plan().actions


def test_reasons_from_hostile_nodes_leave_the_rollout_writable() -> None:
    names = [f"n{number}" for number in range(60)]
    store = settled_store(*names)
    store.deploy(2, service("web", image="app:2"), parallel="100%")
    store.converge()
    for name in names:
        store.report(name, pb.ServiceStatus(name="web", failed=True, reason="€" * 100_000))
    store.converge()
    check_writes([(KEYS.rollout(REF), encode(store.rollout()))])
    assert not store.plan().actions
