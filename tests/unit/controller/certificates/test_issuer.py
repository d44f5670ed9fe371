"""The issuer at work, with an authority and an etcd in memory; what takes time is let go by the test."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from google.protobuf.message import Message

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.certificates.demand import AcmeAccount
from devopsellence.controller.certificates.failure import FailureKind, IssuanceError, IssuanceFailure, IssuancePace
from devopsellence.controller.certificates.issuer import ORDERS_AT_ONCE, Issuer
from devopsellence.controller.certificates.writer import CertificateWriter
from devopsellence.controller.model.snapshot import EnvironmentSnapshot
from devopsellence.store.codec import decode, encode
from devopsellence.store.errors import Ambiguous, Fenced
from devopsellence.store.etcd import Compare, Delete, KeyListing, KeyValue, Put, TxnResult
from devopsellence.store.events import EventWriter
from devopsellence.store.fenced import FencedWriter, Outdated
from devopsellence.store.keys import EnvironmentRef
from devopsellence.store.record import revision_of
from tests.unit.controller.builders import KEYS, REF, Store, moment
from tests.unit.controller.certificate_builders import HOST, chain, csr, obtained, recipient
from tests.unit.controller.ingress_builders import WEB, ingress, serving_store, settle

CODES = {"certificate_obtained": "obtained", "certificate_failed": "failed", "certificate_renewed": "renewed"}


class Memory:
    """Caches, etcd and leadership in one. ``trouble``: raised by the next transactions, one each."""

    def __init__(self, store: Store) -> None:
        self.keys = KEYS
        self.problem = ""
        self.store = store
        self.trouble: list[Exception] = []
        self.told: list[str] = []
        self.changed = asyncio.Event()

    def observe(self, ref: EnvironmentRef) -> EnvironmentSnapshot:
        return self.store.snapshot()

    def expect(self, written: Iterable[tuple[str, bytes, Message]]) -> None:
        pass

    async def get(self, key: str) -> KeyValue | None:
        record = self.store.records.get(key)
        if record is None:
            return None
        value = encode(record.message) if record.message is not None else b"nonsense"
        return KeyValue(key, value, record.create_revision, record.mod_revision, 1, 0)

    async def list(self, prefix: str, *, keys_only: bool = False) -> KeyListing:
        items = [await self.get(key) for key in sorted(self.store.records) if key.startswith(prefix)]
        return KeyListing(tuple(item for item in items if item is not None), 1, 1)

    async def grant_lease(self, ttl: int) -> int:
        return 1

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Put | Delete]) -> TxnResult:
        if self.trouble:
            raise self.trouble.pop(0)
        for compare in compares:
            record = self.store.records.get(compare.key)
            if (compare.revision == revision_of(record)) is not compare.equal:
                return TxnResult(False, 1)
        for operation in operations:
            if isinstance(operation, Delete):
                self.store.delete(operation.key)
            elif operation.key.startswith(KEYS.all_events_prefix):
                self.told.append(CODES[decode(pb.Event, "", operation.value).code])
            else:
                self.store.put(operation.key, decode(pb.Certificate, operation.key, operation.value))
        self.changed.set()
        return TxnResult(True, 1)

    def certificate(self, host: str = HOST) -> pb.Certificate:
        record = self.store.records.get(KEYS.certificate(REF, host))
        return record.message if record is not None and record.message is not None else pb.Certificate()


class Authority:
    """Orders that take until ``go`` is set; ``fail``: what they come to."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.fail: Exception | None = None
        self.ordered: list[tuple[AcmeAccount, str]] = []
        self.at_once = 0
        self.most_at_once = 0
        self.changed: Callable[[], None] = lambda: None
        self._lock = threading.Lock()

    def order(self, account: AcmeAccount, csr_pem: str) -> Authority:
        with self._lock:
            self.ordered.append((account, csr_pem))
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        self.changed()
        return self

    @property
    def challenges(self) -> Sequence[pb.Challenge]:
        return [pb.Challenge(token="t1", key_authorization="t1.x")]

    def prove(self) -> None:
        assert self.go.wait(20)
        with self._lock:
            self.at_once -= 1
        if self.fail is not None:
            raise self.fail

    def finalize(self) -> str:
        return chain(*[f"h{number}.example.com" for number in range(9)], HOST)


class Scene:
    """The issuer, and nodes that make keys and answer challenges while ``nodes_work``."""

    def __init__(self, store: Store, pace: IssuancePace) -> None:
        self.memory = Memory(store)
        self.authority = Authority()
        self.nodes_work = True
        fake: Any = self.memory
        writer = FencedWriter(fake, self.memory.expect, EventWriter(fake))
        records = CertificateWriter(fake, KEYS, writer, lambda: moment(0))
        self.issuer = Issuer(fake, fake, records, lambda: self.authority, lambda: moment(0), pace)

    async def until(self, check: Callable[[], bool]) -> None:
        """Return as soon as ``check`` says yes, which is asked after each change."""
        async with asyncio.timeout(30):
            while not check():
                await self.memory.changed.wait()
                self.memory.changed.clear()
                self._report()
                self.issuer.add(REF)

    def look_again(self) -> None:
        """Something was changed by the test."""
        self.memory.changed.set()

    def _report(self) -> None:
        store = self.memory.store
        found = [one.message for key, one in store.records.items() if key.startswith(KEYS.all_certificates_prefix)]
        said = pb.IngressStatus()
        for one in found:
            if one is None:
                continue
            request = one.issuance.key_request
            if request.id:
                said.signing_requests.add(
                    id=request.id, csr_pem=_csr(one.host), key_age="sealed", recipients=request.recipients
                )
            if self.nodes_work:
                said.challenges.extend(challenge.token for challenge in one.issuance.challenges)
        store.report("n1", ingress=said)


_CSRS: dict[str, str] = {}


def _csr(host: str) -> str:
    return _CSRS.setdefault(host, csr(host))


def serving(*hosts: str) -> Store:
    store = serving_store("n1", hosts=hosts or (HOST,))
    store.put(KEYS.heartbeat("n1"), pb.Heartbeat(node="n1", uid="uid-n1", age_recipient=recipient(1)))
    return store


@asynccontextmanager
async def issuing(store: Store, pace: IssuancePace | None = None) -> AsyncIterator[Scene]:
    scene = Scene(store, pace if pace is not None else IssuancePace(answers=20))
    loop = asyncio.get_running_loop()

    def changed() -> None:
        loop.call_soon_threadsafe(scene.look_again)

    scene.authority.changed = changed
    working = asyncio.create_task(scene.issuer.run([REF]))
    scene.look_again()
    try:
        yield scene
    finally:
        scene.authority.go.set()
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


async def test_first_certificate_is_readable_by_operators() -> None:
    store = serving()
    store.put(KEYS.operator("ann"), pb.Operator(name="ann", age_recipient=recipient(2)))
    store.garbage(KEYS.operator("bob"))
    async with issuing(store) as scene:
        await scene.until(lambda: bool(scene.memory.certificate().chain_pem))
        certificate = scene.memory.certificate()
    assert (certificate.source, certificate.key_age, certificate.serial) == (pb.Certificate.ACME, "sealed", "abc123")
    assert list(certificate.recipients) == sorted([recipient(1), recipient(2)])
    assert not certificate.HasField("issuance")
    assert scene.memory.told == ["obtained"]
    assert len(scene.authority.ordered) == 1


async def test_concurrent_orders_are_limited() -> None:
    hosts = [f"h{number}.example.com" for number in range(9)]
    async with issuing(serving(*hosts)) as scene:
        scene.authority.go.clear()
        await scene.until(lambda: scene.authority.at_once == ORDERS_AT_ONCE)
        scene.authority.go.set()
        await scene.until(lambda: all(scene.memory.certificate(host).chain_pem for host in hosts))
    assert scene.authority.most_at_once == ORDERS_AT_ONCE
    assert len(scene.authority.ordered) == len(hosts)


async def test_nodes_that_do_not_answer_are_waited_for_and_named_when_it_fails() -> None:
    async with issuing(serving(), IssuancePace(answers=0.01)) as scene:
        scene.nodes_work = False
        scene.authority.fail = IssuanceError(IssuanceFailure(FailureKind.UNAUTHORIZED, "acme refused: 404"))
        await scene.until(lambda: scene.memory.certificate().issuance.phase == pb.Issuance.BACKOFF)
    assert scene.memory.certificate().issuance.reason.startswith(
        "acme refused: 404 (challenge not served by n1); check that"
    )
    assert scene.memory.told == ["failed"]


async def test_bug_fails_attempt_and_nothing_else() -> None:
    async with issuing(serving()) as scene:
        scene.authority.fail = ZeroDivisionError("ours")
        await scene.until(lambda: scene.memory.certificate().issuance.phase == pb.Issuance.BACKOFF)
        assert "internal error" in scene.memory.certificate().issuance.reason


async def test_concurrent_writes_are_kept() -> None:
    """An operator lets another node into the certificate that is served, while the next one is under way."""
    store = serving()
    store.put(KEYS.certificate(REF, HOST), obtained(recipient(0)))
    async with issuing(store) as scene:
        scene.authority.go.clear()
        scene.authority.fail = IssuanceError(IssuanceFailure(FailureKind.OTHER, "no"))
        await scene.until(lambda: scene.memory.certificate().issuance.phase == pb.Issuance.CHALLENGE)
        resealed = pb.Certificate()
        resealed.CopyFrom(scene.memory.certificate())
        resealed.key_age = "resealed"
        store.put(KEYS.certificate(REF, HOST), resealed)
        scene.authority.go.set()
        await scene.until(lambda: scene.memory.certificate().issuance.phase == pb.Issuance.BACKOFF)
    assert scene.memory.certificate().key_age == "resealed"


async def test_attempt_that_no_node_wants_any_more_writes_nothing() -> None:
    store = serving()
    async with issuing(store) as scene:
        scene.authority.go.clear()
        await scene.until(lambda: scene.memory.certificate().issuance.phase == pb.Issuance.CHALLENGE)
        for number in (2, 3):
            store.deploy(number, WEB)
            settle(store)
        store.delete(KEYS.certificate(REF, HOST))
        scene.look_again()
        scene.authority.go.set()
        store.deploy(4, WEB, ingress=ingress("h1.example.com"))
        settle(store)
        await scene.until(lambda: bool(scene.memory.certificate("h1.example.com").chain_pem))
        assert KEYS.certificate(REF, HOST) not in store.records


async def test_operator_who_takes_issuance_away_restarts_it() -> None:
    store = serving()
    async with issuing(store) as scene:
        scene.authority.fail = IssuanceError(IssuanceFailure(FailureKind.OTHER, "no"))
        await scene.until(lambda: scene.memory.certificate().issuance.failures == 1)
        scene.authority.fail = None
        cleared = pb.Certificate()
        cleared.CopyFrom(scene.memory.certificate())
        cleared.ClearField("issuance")
        store.put(KEYS.certificate(REF, HOST), cleared)
        scene.look_again()
        await scene.until(lambda: bool(scene.memory.certificate().chain_pem))
    assert scene.memory.told == ["failed", "obtained"]


async def test_write_without_answer_is_read_back() -> None:
    store = serving()
    async with issuing(store) as scene:
        scene.authority.go.clear()
        await scene.until(lambda: scene.memory.certificate().issuance.phase == pb.Issuance.CHALLENGE)
        scene.memory.trouble = [Ambiguous("no answer"), Outdated("raced")]
        scene.authority.go.set()
        await scene.until(lambda: bool(scene.memory.certificate().chain_pem))
    assert scene.memory.told == ["obtained"]


async def test_former_leader_stops() -> None:
    store = serving()
    scene = Scene(store, IssuancePace())
    scene.memory.trouble = [Fenced("another one leads")]
    with pytest.raises(Fenced):
        await scene.issuer.run([REF])


async def test_record_that_cannot_be_read_is_left_alone() -> None:
    other = "h1.example.com"
    store = serving(HOST, other)
    store.garbage(KEYS.certificate(REF, HOST))
    async with issuing(store) as scene:
        await scene.until(lambda: bool(scene.memory.certificate(other).chain_pem))
    assert store.records[KEYS.certificate(REF, HOST)].message is None
    assert len(scene.authority.ordered) == 1
