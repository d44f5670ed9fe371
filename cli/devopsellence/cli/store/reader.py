"""Concurrent reads of records from etcd; unreadable records are reported beside the readable ones."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final, TypeVar

from google.protobuf.message import Message

from devopsellence.api.v1.stored_pb2 import (
    AssignmentStatus,
    Certificate,
    Environment,
    Heartbeat,
    Node,
    Release,
    Rollout,
)
from devopsellence.cli.errors import of_alarm
from devopsellence.cli.store.snapshot import Snapshot, UnreadableKey, overdue_renewals, releases_named_by
from devopsellence.store.codec import decode
from devopsellence.store.errors import MalformedRecord, StoreError
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef, Keys

M = TypeVar("M", bound=Message)
T = TypeVar("T")
_AT_A_TIME: Final = 32
# Above this many keys, listing a whole prefix costs less than one call per key.
MAX_SINGLE_READS: Final = 16


class Reader:
    """Reader of records from etcd; ``problems`` collects unreadable records.

    Every method raises StoreError if etcd cannot be asked.
    """

    def __init__(self, etcd: Etcd) -> None:
        self.etcd = etcd
        self.problems: list[UnreadableKey] = []
        self._slots = asyncio.Semaphore(_AT_A_TIME)

    async def get(self, key: str, kind: type[M]) -> M | None:
        """Return the record at ``key``; None if the record is absent or unreadable."""
        async with self._slots:
            stored = await self.etcd.get(key)
        return self._decode(kind, key, stored.value) if stored else None

    async def get_many(self, keys: dict[str, str], kind: type[M]) -> dict[str, M]:
        """Return the records at the keys of ``keys`` (name to key), by name; without absent and unreadable records."""
        messages = await concurrently(self.get(key, kind) for key in keys.values())
        return {name: message for name, message in zip(keys, messages, strict=True) if message is not None}

    async def get_created(self, keys: dict[str, str], kind: type[M]) -> dict[str, tuple[M, int]]:
        """Return the same as :meth:`get_many`, each record with the revision at which its key was created."""

        async def created(key: str) -> tuple[M, int] | None:
            async with self._slots:
                stored = await self.etcd.get(key)
            message = self._decode(kind, key, stored.value) if stored else None
            return (message, stored.create_revision) if stored and message is not None else None

        records = await concurrently(created(key) for key in keys.values())
        return {name: record for name, record in zip(keys, records, strict=True) if record is not None}

    async def get_many_under(self, prefix: str, keys: dict[str, str], kind: type[M]) -> dict[str, M]:
        """Return the same as :meth:`get_many` for keys under ``prefix``, with a single call for many keys."""
        if len(keys) <= MAX_SINGLE_READS:
            return await self.get_many(keys, kind)
        names = {key: name for name, key in keys.items()}
        listing = await self.etcd.list(prefix)
        messages = {names[kv.key]: self._decode(kind, kv.key, kv.value) for kv in listing.items if kv.key in names}
        return {name: message for name, message in messages.items() if message is not None}

    async def get_prefix(self, prefix: str, kind: type[M]) -> dict[str, M]:
        """Return all readable records under ``prefix``, by key, sorted."""
        listing = await self.etcd.list(prefix)
        decoded = {item.key: self._decode(kind, item.key, item.value) for item in listing.items}
        return {key: message for key, message in decoded.items() if message is not None}

    def _decode(self, kind: type[M], key: str, value: bytes) -> M | None:
        try:
            return decode(kind, key, value)
        except MalformedRecord as error:
            self.problems.append(UnreadableKey(error.key, f"not a readable {error.kind}: {error.reason}"))
            return None


async def concurrently(work: Iterable[Awaitable[T]]) -> list[T]:
    """Run awaitables concurrently and return their results in order.

    The first error cancels the rest and is raised unchanged after all have ended.
    """
    tasks = [asyncio.ensure_future(awaitable) for awaitable in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def snapshot(etcd: Etcd, ref: EnvironmentRef) -> Snapshot:
    """Read all records of an environment."""
    reader, keys = Reader(etcd), etcd.keys
    environment, rollout, controllers, warnings, certificates = await asyncio.gather(
        reader.get(keys.environment(ref), Environment),
        reader.get(keys.rollout(ref), Rollout),
        etcd.list(keys.election_prefix, keys_only=True),
        _alarms(etcd),
        reader.get_prefix(keys.certificates_prefix(ref), Certificate),
    )
    number = environment.latest_release if environment else 0
    attached = environment.nodes if environment else ()
    # A detached node stays in the rollout until all its containers are removed.
    names = sorted({*attached, *(progress.node for progress in (rollout.nodes if rollout else ()))})
    numbers = sorted({number, *releases_named_by(rollout)} - {0})
    releases, nodes, heartbeats, statuses = await asyncio.gather(
        reader.get_many({str(release): keys.release(ref, release) for release in numbers}, Release),
        reader.get_many_under(keys.nodes_prefix, {name: keys.node(name) for name in names}, Node),
        reader.get_many_under(keys.heartbeats_prefix, {name: keys.heartbeat(name) for name in names}, Heartbeat),
        reader.get_many_under(
            keys.all_statuses_prefix, {name: keys.status(name, ref) for name in names}, AssignmentStatus
        ),
    )
    older_releases = {int(text): release for text, release in releases.items()}
    return Snapshot(
        ref=ref,
        environment=environment,
        release=older_releases.pop(number, None),
        rollout=rollout,
        nodes=nodes,
        heartbeats=heartbeats,
        statuses=statuses,
        controllers=len(controllers.items),
        problems=tuple(sorted(reader.problems, key=lambda problem: problem.key)),
        older_releases=older_releases,
        warnings=(*warnings, *overdue_renewals(heartbeats, datetime.now(UTC))),
        certificates=certificates_by_host(keys, certificates),
    )


def certificates_by_host(keys: Keys, certificates: Mapping[str, T]) -> dict[str, T]:
    """Return values stored under certificate keys by host; other keys are left out."""
    values = {}
    for key, value in certificates.items():
        with suppress(ValueError):
            values[keys.parse_certificate(key)[1]] = value
    return values


async def _alarms(etcd: Etcd) -> tuple[str, ...]:
    """Return a sentence for each active etcd alarm; nothing if the member does not report alarms."""
    with suppress(StoreError):
        return tuple(
            f"{of_alarm(alarm).message}; run devopsellence doctor to see how to clear it"
            for alarm in (await etcd.member()).alarms
        )
    return ()
