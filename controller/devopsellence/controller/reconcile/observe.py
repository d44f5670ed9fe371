"""Snapshots of environments: the caches, completed with missing records from etcd."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol, TypeVar

from google.protobuf.message import Message

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.controller.assign.secrets import missing_secrets
from devopsellence.controller.cache.validation import checked_secret
from devopsellence.controller.model.snapshot import EnvironmentSnapshot
from devopsellence.store.codec import decode
from devopsellence.store.errors import MalformedRecord
from devopsellence.store.etcd import KeyValue
from devopsellence.store.keys import EnvironmentRef, InvalidName, Keys
from devopsellence.store.record import Record, message_of

M = TypeVar("M", bound=Message)


class DisconnectedError(Exception):
    """The caches may be old. A key missing from them may exist, so nothing is decided from them."""


class SnapshotSource(Protocol):
    """Caches of the store: store_cache.StoreCache."""

    keys: Keys

    @property
    def problem(self) -> str: ...

    def observe(self, ref: EnvironmentRef) -> EnvironmentSnapshot: ...


class KeyReader(Protocol):
    """Reads from etcd itself: store.etcd.Etcd."""

    async def get(self, key: str) -> KeyValue | None: ...


class SnapshotReader:
    """Reader of complete snapshots."""

    def __init__(self, etcd: KeyReader, caches: SnapshotSource) -> None:
        self.keys = caches.keys
        self._etcd = etcd
        self._caches = caches

    async def read(self, ref: EnvironmentRef) -> EnvironmentSnapshot:
        """Return the snapshot of ``ref`` from the caches; a record that is referred to but missing comes from etcd.

        Records written together, or one after another, arrive on several watches in any order.

        Raises:
            DisconnectedError: the caches are not connected.
            StoreError: etcd could not be read.
        """
        if problem := self._caches.problem:
            raise DisconnectedError(problem)
        snapshot = self._caches.observe(ref)
        environment = message_of(snapshot.environment)
        if environment is None or environment.latest_release == 0:
            return snapshot
        if snapshot.release is None:
            key = self.keys.release(ref, environment.latest_release)
            snapshot = replace(snapshot, release=await self._record(pb.Release, key))
        if snapshot.fallback is None and (number := snapshot.fallback_number):
            snapshot = replace(snapshot, fallback=await self._record(pb.Release, self.keys.release(ref, number)))
        return await self._with_all_secrets(snapshot)

    async def _with_all_secrets(self, snapshot: EnvironmentSnapshot) -> EnvironmentSnapshot:
        release = message_of(snapshot.release)
        secrets = dict(snapshot.secrets)
        for service, name in missing_secrets(release, secrets) if release is not None else ():
            record = await self._secret(snapshot.ref, service, name)
            if record is not None:
                secrets[service, name] = record
        return replace(snapshot, secrets=secrets)

    async def _secret(self, ref: EnvironmentRef, service: str, name: str) -> Record[pb.Secret] | None:
        try:
            key = self.keys.secret(ref, service, name)
        except InvalidName:
            # Nothing can be stored under such a name.
            return None
        return checked_secret(await self._record(pb.Secret, key), ref, service, name)

    async def _record(self, kind: type[M], key: str) -> Record[M] | None:
        stored = await self._etcd.get(key)
        if stored is None:
            return None
        try:
            message = decode(kind, key, stored.value)
        except MalformedRecord as error:
            return Record(key, None, error, stored.create_revision, stored.mod_revision)
        return Record(key, message, None, stored.create_revision, stored.mod_revision)
