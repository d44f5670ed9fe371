"""Observe, plan, write: one environment at a time, fenced by the leadership."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

import structlog
from google.protobuf.message import Message

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.assign.secrets import missing_secrets
from devopsellence.controller.cache.validation import checked_secret
from devopsellence.controller.model.actions import EnvironmentPlan, WriteKind
from devopsellence.controller.model.reachability import UnreachableSince
from devopsellence.controller.model.snapshot import EnvironmentSnapshot, Moment, ProgressStopwatch
from devopsellence.controller.plan import plan
from devopsellence.controller.reconcile.transactions import transactions
from devopsellence.controller.rollout.target import fallback_number
from devopsellence.store.codec import decode
from devopsellence.store.errors import LeaseLost, MalformedRecord
from devopsellence.store.etcd import Compare, Delete, KeyValue, Put, TxnResult
from devopsellence.store.events import Journal
from devopsellence.store.keys import EnvironmentRef, InvalidName, Keys
from devopsellence.store.record import Record, message_of

M = TypeVar("M", bound=Message)
_log = structlog.get_logger()


class DisconnectedError(Exception):
    """What the caches say may be old. What is gone from them may be there, so nothing is decided from them."""


class Outdated(Exception):
    """The plan was made from what is no longer so. Nothing was overwritten; plan again."""


class SnapshotSource(Protocol):
    """What knows what is stored: caches.Caches."""

    keys: Keys

    @property
    def problem(self) -> str: ...

    def observe(self, ref: EnvironmentRef) -> EnvironmentSnapshot: ...

    def expect(self, written: Iterable[tuple[str, bytes, Message]]) -> None: ...


class KeyReader(Protocol):
    """What reads etcd itself: store.etcd.Etcd."""

    async def get(self, key: str) -> KeyValue | None: ...


class FencedTransactions(Protocol):
    """What writes, fenced: election.Leadership."""

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Put | Delete]) -> TxnResult: ...


class Reconciler:
    """Brings the assignments and the rollout of one environment at a time to what they should be."""

    def __init__(
        self,
        etcd: KeyReader,
        caches: SnapshotSource,
        writer: FencedTransactions,
        journal: Journal,
        clock: Callable[[], Moment],
    ) -> None:
        self._etcd = etcd
        self._caches = caches
        self._writer = writer
        self._journal = journal
        self._clock = clock
        # One for each rollout whose progress deadline runs.
        self._stopwatches: dict[EnvironmentRef, ProgressStopwatch] = {}
        self._silences = UnreachableSince()

    async def reconcile(self, ref: EnvironmentRef) -> float | None:
        """One round for ``ref``; returns after how many seconds to look again if nothing changes (None: never).

        Raises:
            DisconnectedError: the caches are not connected.
            OutdatedError: something has changed meanwhile.
            StoreError: etcd could not be read or written.
        """
        if problem := self._caches.problem:
            raise DisconnectedError(problem)
        world = await self._observe(ref)
        now = self._clock()
        world = replace(world, silent_since=self._silences.note(world, now))
        made = plan(world, now, self._caches.keys)
        await self._write(ref, made, now)
        if made.stopwatch is None:
            self._stopwatches.pop(ref, None)
        else:
            self._stopwatches[ref] = made.stopwatch
        return made.recheck_after

    async def _observe(self, ref: EnvironmentRef) -> EnvironmentSnapshot:
        """What the caches say; what is named but missing is read from etcd itself.

        What was written together, or one after the other, arrives on several streams in any order.
        """
        world = replace(self._caches.observe(ref), stopwatch=self._stopwatches.get(ref))
        environment = message_of(world.environment)
        if environment is None or environment.latest_release == 0:
            return world
        if world.release is None:
            key = self._caches.keys.release(ref, environment.latest_release)
            world = replace(world, release=await self._read(pb.Release, key))
        if world.fallback is None and (number := fallback_number(world)):
            world = replace(world, fallback=await self._read(pb.Release, self._caches.keys.release(ref, number)))
        return await self._with_all_secrets(world)

    async def _with_all_secrets(self, world: EnvironmentSnapshot) -> EnvironmentSnapshot:
        release = message_of(world.release)
        secrets = dict(world.secrets)
        for service, name in missing_secrets(release, secrets) if release is not None else ():
            record = await self._read_secret(world.ref, service, name)
            if record is not None:
                secrets[service, name] = record
        return replace(world, secrets=secrets)

    async def _read_secret(self, ref: EnvironmentRef, service: str, name: str) -> Record[pb.Secret] | None:
        try:
            key = self._caches.keys.secret(ref, service, name)
        except InvalidName:
            # Nothing can be stored under such a name.
            return None
        return checked_secret(await self._read(pb.Secret, key), ref, service, name)

    async def _read(self, kind: type[M], key: str) -> Record[M] | None:
        found = await self._etcd.get(key)
        if found is None:
            return None
        try:
            message = decode(kind, key, found.value)
        except MalformedRecord as error:
            return Record(key, None, error, found.create_revision, found.mod_revision)
        return Record(key, message, None, found.create_revision, found.mod_revision)

    async def _write(self, ref: EnvironmentRef, made: EnvironmentPlan, now: Moment) -> None:
        if not made.actions:
            return
        events = await self._journal.puts(ref, made.events, now.wall, now.monotonic)
        told = False
        for transaction in transactions(made, events):
            self._caches.expect(transaction.written)
            try:
                result = await self._writer.txn(transaction.compares, transaction.operations)
            except LeaseLost:
                self._journal.forget_lease()
                raise
            if not result.succeeded:
                raise Outdated("a key was written meanwhile")
            if not told:
                told = True
                _tell(ref, made.events)
        _log.debug("plan carried out", environment=str(ref), actions=len(made.actions))
        if parts := sum(action.kind in (WriteKind.WRITE_PART, WriteKind.DELETE_PART) for action in made.actions):
            _log.info("parts of the ingress given out", environment=str(ref), parts=parts)


def _tell(ref: EnvironmentRef, events: Sequence[pb.Event]) -> None:
    for event in events:
        level = {pb.Event.WARNING: _log.warning, pb.Event.ERROR: _log.error}.get(event.severity, _log.info)
        level("decided", environment=str(ref), code=event.code, release=event.release, reason=event.message)
