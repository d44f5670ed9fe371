"""Reading an environment once, everything at the same time, and a bad record spoils nothing but itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Mapping
from contextlib import suppress
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
from devopsellence.cli.store.snapshot import Snapshot, UnreadableKey, releases_named_by
from devopsellence.store.codec import decode
from devopsellence.store.errors import MalformedRecord, StoreError
from devopsellence.store.etcd import Etcd
from devopsellence.store.keys import EnvironmentRef, Keys

M = TypeVar("M", bound=Message)
T = TypeVar("T")
_AT_A_TIME: Final = 32
# Of more nodes than this, one list of everything of a kind costs less than a call for each.
MAX_SINGLE_READS: Final = 16


class Reader:
    """Reads records and remembers in ``problems`` those that cannot be read; a store error ends the command."""

    def __init__(self, etcd: Etcd) -> None:
        self.etcd = etcd
        self.problems: list[UnreadableKey] = []
        self._slots = asyncio.Semaphore(_AT_A_TIME)

    async def get(self, key: str, kind: type[M]) -> M | None:
        """The record at ``key``; None when there is none or it cannot be read."""
        async with self._slots:
            found = await self.etcd.get(key)
        return self._decode(kind, key, found.value) if found else None

    async def get_many(self, keys: dict[str, str], kind: type[M]) -> dict[str, M]:
        """The records at the keys of ``keys`` (name to key), by name; those that are not there are left out."""
        found = await concurrently(self.get(key, kind) for key in keys.values())
        return {name: message for name, message in zip(keys, found, strict=True) if message is not None}

    async def get_many_under(self, prefix: str, keys: dict[str, str], kind: type[M]) -> dict[str, M]:
        """As :meth:`each` for keys that are all under ``prefix``, with one call where they are many."""
        if len(keys) <= MAX_SINGLE_READS:
            return await self.get_many(keys, kind)
        names = {key: name for name, key in keys.items()}
        listing = await self.etcd.list(prefix)
        found = {names[kv.key]: self._decode(kind, kv.key, kv.value) for kv in listing.items if kv.key in names}
        return {name: message for name, message in found.items() if message is not None}

    async def get_prefix(self, prefix: str, kind: type[M]) -> dict[str, M]:
        """All readable records under ``prefix`` by key, sorted."""
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
    """All results in order; the first error ends the others, waits until they have ended, and is raised as it is."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def snapshot(etcd: Etcd, ref: EnvironmentRef) -> Snapshot:
    """Everything that is known of one environment."""
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
    # A node that is being detached is still in the rollout until it has removed what it ran.
    names = sorted({*attached, *(progress.node for progress in (rollout.nodes if rollout else ()))})
    numbers = sorted({number, *releases_named_by(rollout)} - {0})
    releases, nodes, heartbeats, statuses = await asyncio.gather(
        reader.get_many({str(each): keys.release(ref, each) for each in numbers}, Release),
        reader.get_many_under(keys.nodes_prefix, {name: keys.node(name) for name in names}, Node),
        reader.get_many_under(keys.heartbeats_prefix, {name: keys.heartbeat(name) for name in names}, Heartbeat),
        reader.get_many_under(
            keys.all_statuses_prefix, {name: keys.status(name, ref) for name in names}, AssignmentStatus
        ),
    )
    others = {int(each): release for each, release in releases.items()}
    return Snapshot(
        ref=ref,
        environment=environment,
        release=others.pop(number, None),
        rollout=rollout,
        nodes=nodes,
        heartbeats=heartbeats,
        statuses=statuses,
        controllers=len(controllers.items),
        problems=tuple(sorted(reader.problems, key=lambda problem: problem.key)),
        older_releases=others,
        warnings=warnings,
        certificates=certificates_by_host(keys, certificates),
    )


def certificates_by_host(keys: Keys, certificates: Mapping[str, T]) -> dict[str, T]:
    """What stands at the keys of certificates, by host; other keys are left out."""
    found = {}
    for key, each in certificates.items():
        with suppress(ValueError):
            found[keys.parse_certificate(key)[1]] = each
    return found


async def _alarms(etcd: Etcd) -> tuple[str, ...]:
    """A sentence for each alarm of etcd; a member that does not tell keeps nobody from the rest."""
    with suppress(StoreError):
        return tuple(
            f"{of_alarm(alarm).message}; devopsellence doctor says what ends it"
            for alarm in (await etcd.member()).alarms
        )
    return ()
