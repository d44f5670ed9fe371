"""Continuously updated snapshot of one environment, from informers on its keys."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self, TypeVar

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from devopsellence.api.v1.stored_pb2 import (
    AssignmentStatus,
    Candidate,
    Certificate,
    Environment,
    Heartbeat,
    Node,
    Release,
    Rollout,
)
from devopsellence.cli.store.informer_group import InformerGroup
from devopsellence.cli.store.reader import MAX_SINGLE_READS, certificates_by_host
from devopsellence.cli.store.snapshot import Snapshot, UnreadableKey, releases_named_by
from devopsellence.store.codec import decode
from devopsellence.store.errors import MalformedRecord, StoreError, Unavailable
from devopsellence.store.etcd import Etcd, KeyValue
from devopsellence.store.informer import Informer
from devopsellence.store.keys import EnvironmentRef
from devopsellence.store.record import Record, message_of

M = TypeVar("M", bound=Message)
# Seconds between attempts to read a record.
_AGAIN: Final = 1.0


class EnvironmentWatcher:
    """Local copy of the records of one environment; an async context manager.

    Up to ``watches`` nodes have a watch per status; beyond that, a single watch on all statuses costs etcd less.

    Entering raises Unavailable if the first read takes longer than ``patience`` seconds; after that, a lost
    connection only makes the snapshots ``stale``.
    """

    def __init__(
        self, etcd: Etcd, ref: EnvironmentRef, *, watches: int = MAX_SINGLE_READS, patience: float = 10.0
    ) -> None:
        self._etcd = etcd
        self._ref = ref
        self._watches = watches
        self._patience = patience
        self._informers = InformerGroup(etcd, connections=True)
        keys, add = etcd.keys, self._informers.add
        self._environments = add(keys.environment(ref), Environment)
        # Watched only for changes, not for its content: the rollout changes with every status of every node, so the
        # content is read only when needed.
        self._rollouts = add(keys.rollout(ref), Empty)
        self._rollout: Record[Rollout] | None = None
        self._nodes = add(keys.nodes_prefix, Node)
        self._heartbeats = add(keys.heartbeats_prefix, Heartbeat)
        self._candidates = add(keys.election_prefix, Candidate)
        self._certificates = add(keys.certificates_prefix(ref), Certificate)
        self._statuses: dict[str, Informer[AssignmentStatus]] = {}
        self._releases: dict[int, Record[Release]] = {}

    async def __aenter__(self) -> Self:
        try:
            async with asyncio.timeout(self._patience):
                await self._informers.synced()
                await self._refresh()
                await self._informers.synced()
        except TimeoutError as error:
            await self._informers.end()
            raise Unavailable(self._informers.problem) from error
        except BaseException:
            await self._informers.end()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._informers.end()

    def wake(self) -> None:
        """Make :meth:`next` return without a change, for example at a deadline."""
        self._informers.wake()

    async def next(self) -> Snapshot:
        """Wait for the next change, without a limit, and return the snapshot after it; rapid changes are combined."""
        await self._informers.changed()
        try:
            await self._refresh()
        except StoreError:
            asyncio.get_running_loop().call_later(_AGAIN, self.wake)
        return self.snapshot()

    def snapshot(self) -> Snapshot:
        """Return the snapshot of the current records."""
        keys, ref = self._etcd.keys, self._ref
        problems: list[UnreadableKey] = []
        environment = _message(self._environments.records.get(keys.environment(ref)), problems)
        rollout = _message(self._rollout, problems)
        names = self._names(environment, rollout)
        number = environment.latest_release if environment else 0
        releases = self._named(number, rollout, problems)
        certificates = {key: _message(record, problems) for key, record in self._certificates.records.items()}
        return Snapshot(
            ref=ref,
            environment=environment,
            release=releases.pop(number, None),
            rollout=rollout,
            nodes=_by_name(names, {name: self._nodes.records.get(keys.node(name)) for name in names}, problems),
            heartbeats=_by_name(names, {n: self._heartbeats.records.get(keys.heartbeat(n)) for n in names}, problems),
            statuses=_by_name(names, {name: self._status(name) for name in names}, problems),
            controllers=len(self._candidates.records),
            problems=tuple(sorted(problems, key=lambda problem: problem.key)),
            stale="" if self._rollouts.connected else self._rollouts.problem,
            older_releases=releases,
            certificates={
                host: each for host, each in certificates_by_host(keys, certificates).items() if each is not None
            },
        )

    def _named(self, number: int, rollout: Rollout | None, problems: list[UnreadableKey]) -> dict[int, Release]:
        """Return the newest release and the releases named by the rollout, as far as read."""
        releases = {
            release_number: _message(self._releases.get(release_number), problems)
            for release_number in sorted({number, *releases_named_by(rollout)})
        }
        return {release_number: release for release_number, release in releases.items() if release is not None}

    def _names(self, environment: Environment | None, rollout: Rollout | None) -> list[str]:
        in_rollout = [progress.node for progress in rollout.nodes] if rollout else []
        return sorted({*(environment.nodes if environment else ()), *in_rollout})

    def _status(self, node: str) -> Record[AssignmentStatus] | None:
        informer = self._statuses.get(node) or self._statuses.get("")
        return informer.records.get(self._etcd.keys.status(node, self._ref)) if informer else None

    async def _refresh(self) -> None:
        """Read the rollout and the releases, which have no informer for their content; watch new nodes."""
        await self._fetch_rollout()
        environment = _message(self._environments.records.get(self._etcd.keys.environment(self._ref)), [])
        rollout = _message(self._rollout, [])
        self._watch_statuses(self._names(environment, rollout))
        number = environment.latest_release if environment else 0
        for release in sorted({number, *releases_named_by(rollout)} - {0} - self._releases.keys()):
            await self._fetch_release(release)

    async def _fetch_rollout(self) -> None:
        """Read the rollout if it changed since the last read."""
        key = self._etcd.keys.rollout(self._ref)
        watched = self._rollouts.records.get(key)
        if watched is None or (self._rollout is not None and self._rollout.mod_revision == watched.mod_revision):
            self._rollout = self._rollout if watched is not None else None
            return
        stored = await self._etcd.get(key)
        self._rollout = _record(Rollout, stored) if stored is not None else None

    def _watch_statuses(self, names: Sequence[str]) -> None:
        """Watch the statuses of new nodes; each first read counts as a change."""
        keys = self._etcd.keys
        missing = [name for name in names if name not in self._statuses]
        if "" in self._statuses or not missing:
            return
        if len(self._statuses) + len(missing) > self._watches:
            prefixes = {"": keys.all_statuses_prefix}
        else:
            prefixes = {name: keys.status(name, self._ref) for name in missing}
        self._statuses |= {name: self._informers.add(prefix, AssignmentStatus) for name, prefix in prefixes.items()}
        self._informers.start()

    async def _fetch_release(self, number: int) -> None:
        """Read a release, once, because releases never change."""
        stored = await self._etcd.get(self._etcd.keys.release(self._ref, number))
        if stored is not None:
            self._releases[number] = _record(Release, stored)


def _record(kind: type[M], kv: KeyValue) -> Record[M]:
    message, error = None, None
    try:
        message = decode(kind, kv.key, kv.value)
    except MalformedRecord as problem:
        error = problem
    return Record(kv.key, message, error, kv.create_revision, kv.mod_revision)


def _message(record: Record[M] | None, problems: list[UnreadableKey]) -> M | None:
    if record is not None and record.error is not None:
        problems.append(UnreadableKey(record.key, f"not a readable {record.error.kind}: {record.error.reason}"))
    return message_of(record)


def _by_name(
    names: list[str], records: Mapping[str, Record[Any] | None], problems: list[UnreadableKey]
) -> dict[str, Any]:
    messages = {name: _message(records[name], problems) for name in names}
    return {name: message for name, message in messages.items() if message is not None}
