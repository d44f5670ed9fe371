"""Rounds of the reconciler with fake caches, etcd and leadership."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from google.protobuf.message import Message

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.model.snapshot import EnvironmentSnapshot
from devopsellence.controller.reconcile.observe import DisconnectedError, SnapshotReader
from devopsellence.controller.reconcile.reconciler import EnvironmentReconciler
from devopsellence.store.codec import decode, encode
from devopsellence.store.errors import LeaseLost, Unavailable
from devopsellence.store.etcd import Compare, Delete, KeyValue, Put, TxnResult
from devopsellence.store.events import LEASE_SHARED_SECONDS, EventWriter
from devopsellence.store.fenced import FencedWriter, Outdated
from devopsellence.store.keys import EnvironmentRef
from tests.unit.controller.builders import KEYS, REF, Store, moment, release, secret, service

WEB = service("web")


class FakeEtcd:
    """Caches, etcd and leadership in one; ``refuse`` says what the next transaction comes to."""

    def __init__(self, store: Store) -> None:
        self.keys = KEYS
        self.store = store
        self.problem = ""
        self.values: dict[str, bytes] = {}
        self.hidden: set[str] = set()
        self.refuse: Exception | bool = False
        self.lease_problem: Exception | None = None
        self.leases = 0
        self.written: list[Put | Delete] = []

    def observe(self, ref: EnvironmentRef) -> EnvironmentSnapshot:
        whole = self.store.records
        self.store.records = {key: record for key, record in whole.items() if key not in self.hidden}
        snapshot = self.store.snapshot()
        self.store.records = whole
        return snapshot

    def expect(self, written: Iterable[tuple[str, bytes, Message]]) -> None:
        assert all(decode(type(message), key, value) == message for key, value, message in written)

    async def get(self, key: str) -> KeyValue | None:
        value = self.values.get(key)
        return KeyValue(key, value, 1, 1, 1, 0) if value is not None else None

    async def grant_lease(self, ttl: int) -> int:
        if self.lease_problem is not None:
            raise self.lease_problem
        self.leases += 1
        return self.leases

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Put | Delete]) -> TxnResult:
        if isinstance(self.refuse, Exception):
            raise self.refuse
        if not self.refuse:
            self.written += operations
        return TxnResult(not self.refuse, 1)

    def keys_written(self, prefix: str) -> list[str]:
        return [operation.key for operation in self.written if operation.key.startswith(prefix)]


def make() -> tuple[FakeEtcd, Store, EnvironmentReconciler]:
    store = Store()
    store.add_node("n1", "web")
    store.set_environment("n1")
    store.deploy(1, WEB)
    etcd = FakeEtcd(store)
    fake: Any = etcd
    writer = FencedWriter(fake, etcd.expect, EventWriter(fake))
    return etcd, store, EnvironmentReconciler(SnapshotReader(fake, fake), writer, lambda: moment(store.seconds))


async def test_round_writes_rollout_assignment_and_events_in_one_transaction() -> None:
    etcd, _, reconciler = make()
    assert await reconciler.reconcile(REF) == pytest.approx(600)
    assert etcd.keys_written(KEYS.rollouts_prefix) == [KEYS.rollout(REF)]
    assert etcd.keys_written(KEYS.all_assignments_prefix) == [KEYS.assignment("n1", REF)]
    events = etcd.keys_written(KEYS.events_prefix(REF))
    assert len(events) == 2
    assert events == sorted(events)
    assert all(KEYS.parse_event(key)[0] == REF for key in events)
    assert {
        operation.lease for operation in etcd.written if isinstance(operation, Put) and operation.key in events
    } == {1}


async def test_disconnected_caches_decide_nothing() -> None:
    etcd, _, reconciler = make()
    etcd.problem = "etcd does not answer"
    with pytest.raises(DisconnectedError, match="etcd does not answer"):
        await reconciler.reconcile(REF)
    assert etcd.written == []


async def test_refused_transaction_is_outdated_and_says_nothing_else() -> None:
    etcd, _, reconciler = make()
    etcd.refuse = True
    with pytest.raises(Outdated):
        await reconciler.reconcile(REF)


async def test_release_that_has_not_reached_cache_is_read_from_etcd() -> None:
    etcd, _, reconciler = make()
    key = KEYS.release(REF, 1)
    etcd.hidden.add(key)
    etcd.values[key] = encode(release(1, WEB))
    await reconciler.reconcile(REF)
    assert etcd.keys_written(KEYS.all_assignments_prefix) == [KEYS.assignment("n1", REF)]


async def test_release_that_is_not_in_etcd_either_moves_nothing() -> None:
    for value in (None, b"nonsense"):
        etcd, _, reconciler = make()
        key = KEYS.release(REF, 1)
        etcd.hidden.add(key)
        if value is not None:
            etcd.values[key] = value
        await reconciler.reconcile(REF)
        assert etcd.keys_written(KEYS.all_assignments_prefix) == []
        assert etcd.keys_written(KEYS.rollouts_prefix) == [KEYS.rollout(REF)]


@pytest.mark.parametrize("cached", ["nothing", "an older version"])
async def test_secret_that_has_not_reached_cache_is_read_from_etcd(cached: str) -> None:
    etcd, store, reconciler = make()
    if cached == "an older version":
        store.store_secret("web", "A", 1)
    store.deploy(1, service("web", A=2))
    etcd.values[KEYS.secret(REF, "web", "A")] = encode(secret("web", "A", 1, 2))
    await reconciler.reconcile(REF)
    [written] = [
        operation
        for operation in etcd.written
        if isinstance(operation, Put) and operation.key == KEYS.assignment("n1", REF)
    ]
    assert [(secret.name, secret.version) for secret in decode(pb.Assignment, "", written.value).secrets] == [("A", 2)]


@pytest.mark.parametrize("value", [None, b"nonsense", b"{}"])
async def test_secret_that_is_not_in_etcd_either_or_is_nonsense_is_left_out(value: bytes | None) -> None:
    etcd, store, reconciler = make()
    store.deploy(1, service("web", A=2))
    if value is not None:
        etcd.values[KEYS.secret(REF, "web", "A")] = value
    await reconciler.reconcile(REF)
    [written] = [
        operation
        for operation in etcd.written
        if isinstance(operation, Put) and operation.key == KEYS.assignment("n1", REF)
    ]
    assert not decode(pb.Assignment, "", written.value).secrets


async def test_decision_is_not_held_up_because_its_events_cannot_be_stored() -> None:
    etcd, _, reconciler = make()
    etcd.lease_problem = Unavailable("no")
    await reconciler.reconcile(REF)
    assert etcd.keys_written(KEYS.all_assignments_prefix) == [KEYS.assignment("n1", REF)]
    assert etcd.keys_written(KEYS.all_events_prefix) == []


async def test_events_of_one_hour_share_lease_and_lost_lease_is_replaced() -> None:
    etcd, store, reconciler = make()
    await reconciler.reconcile(REF)
    await reconciler.reconcile(REF)
    assert etcd.leases == 1
    store.seconds = LEASE_SHARED_SECONDS
    await reconciler.reconcile(REF)
    assert etcd.leases == 2
    etcd.refuse = LeaseLost("gone")
    with pytest.raises(LeaseLost):
        await reconciler.reconcile(REF)
    etcd.refuse = False
    await reconciler.reconcile(REF)
    assert etcd.leases == 3


async def test_deadline_is_counted_from_first_round() -> None:
    etcd, store, reconciler = make()
    await reconciler.reconcile(REF)
    for operation in etcd.written:
        if isinstance(operation, Put) and not operation.key.startswith(KEYS.all_events_prefix):
            store.step()
            break
    store.seconds = 100
    assert await reconciler.reconcile(REF) == pytest.approx(500)
