"""A snapshot of one environment that stays true: informers on the keys that it is made of."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from typing import Any, Self, TypeVar

from google.protobuf.message import Message

from devopsellence.api.v1.stored_pb2 import (
    AssignmentStatus,
    Candidate,
    Environment,
    Heartbeat,
    Node,
    Release,
    Rollout,
)
from devopsellence.cli.view.snapshot import Problem, Snapshot
from devopsellence.store.errors import MalformedRecord, StoreError, Unavailable
from devopsellence.store.etcd import Etcd
from devopsellence.store.informer import Informer, Record
from devopsellence.store.keys import EnvironmentRef
from devopsellence.store.records import decode

M = TypeVar("M", bound=Message)


class Watcher:
    """Keeps the records of one environment; an async context manager.

    Up to ``watches`` nodes each have a watch of their own on their status; beyond that, one watch on all statuses
    costs etcd less.

    Entering it raises Unavailable when not everything could be read within ``patience`` seconds; after that a lost
    connection only makes the snapshots ``stale``.
    """

    def __init__(self, etcd: Etcd, ref: EnvironmentRef, *, watches: int = 16, patience: float = 10.0) -> None:
        self._etcd = etcd
        self._ref = ref
        self._watches = watches
        self._patience = patience
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        keys = etcd.keys
        self._environments = self._informer(keys.environment(ref), Environment)
        self._rollouts = self._informer(keys.rollout(ref), Rollout)
        self._nodes = self._informer(keys.nodes_prefix, Node)
        self._heartbeats = self._informer(keys.heartbeats_prefix, Heartbeat)
        self._candidates = self._informer(keys.election_prefix, Candidate)
        self._statuses: dict[str, Informer[AssignmentStatus]] = {}
        self._releases: dict[int, Release | Problem] = {}

    async def __aenter__(self) -> Self:
        fixed: list[Informer[Any]] = [
            self._environments, self._rollouts, self._nodes, self._heartbeats, self._candidates
        ]  # fmt: skip
        try:
            async with asyncio.timeout(self._patience):
                self._run(fixed)
                for informer in fixed:
                    await informer.synced()
                await self._refresh()
                for statuses in self._statuses.values():
                    await statuses.synced()
        except TimeoutError as error:
            await self._stop()
            problem = next((each.problem for each in fixed if each.problem), "not everything could be read in time")
            raise Unavailable(problem) from error
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    def wake(self) -> None:
        """Let :meth:`next` return although nothing changed; for whoever has an eye on the time."""
        self._changed.set()

    async def next(self) -> Snapshot:
        """The state after the next change; changes in between are seen together. Waits for as long as it takes."""
        changed = asyncio.ensure_future(self._changed.wait())
        try:
            # An informer only ever ends by a mistake of ours, which must not look like peace and quiet.
            done, _ = await asyncio.wait({changed, *self._tasks}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
        for task in done - {changed}:
            task.result()
        self._changed.clear()
        await self._refresh()
        return self.snapshot()

    def snapshot(self) -> Snapshot:
        """What is known now."""
        keys, ref = self._etcd.keys, self._ref
        problems: list[Problem] = []
        environment = _message(self._environments.records.get(keys.environment(ref)), problems)
        rollout = _message(self._rollouts.records.get(keys.rollout(ref)), problems)
        names = self._names(environment, rollout)
        release = self._releases.get(environment.latest_release) if environment else None
        if isinstance(release, Problem):
            problems.append(release)
        return Snapshot(
            ref=ref,
            environment=environment,
            release=release if isinstance(release, Release) else None,
            rollout=rollout,
            nodes=_by_name(names, {name: self._nodes.records.get(keys.node(name)) for name in names}, problems),
            heartbeats=_by_name(names, {n: self._heartbeats.records.get(keys.heartbeat(n)) for n in names}, problems),
            statuses=_by_name(names, {name: self._status(name) for name in names}, problems),
            controllers=len(self._candidates.records),
            problems=tuple(sorted(problems, key=lambda problem: problem.key)),
            stale="" if self._rollouts.connected else self._rollouts.problem,
        )

    def _informer(self, prefix: str, kind: type[M]) -> Informer[M]:
        return Informer(self._etcd, prefix, kind, lambda _key: self._changed.set(), on_connection=self._changed.set)

    def _names(self, environment: Environment | None, rollout: Rollout | None) -> list[str]:
        in_rollout = [progress.node for progress in rollout.nodes] if rollout else []
        return sorted({*(environment.nodes if environment else ()), *in_rollout})

    def _status(self, node: str) -> Record[AssignmentStatus] | None:
        informer = self._statuses.get(node) or self._statuses.get("")
        return informer.records.get(self._etcd.keys.status(node, self._ref)) if informer else None

    def _run(self, informers: Iterable[Informer[Any]]) -> None:
        self._tasks |= {asyncio.create_task(informer.run()) for informer in informers}

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _refresh(self) -> None:
        self._watch_statuses()
        await self._fetch_release()

    def _watch_statuses(self) -> None:
        """Watch the statuses of nodes that are new here; what they hold is a change when it has been read."""
        snapshot, keys = self.snapshot(), self._etcd.keys
        missing = [name for name in self._names(snapshot.environment, snapshot.rollout) if name not in self._statuses]
        if "" in self._statuses or not missing:
            return
        if len(self._statuses) + len(missing) > self._watches:
            prefixes = {"": keys.all_statuses_prefix}
        else:
            prefixes = {name: keys.status(name, self._ref) for name in missing}
        new = {name: self._informer(prefix, AssignmentStatus) for name, prefix in prefixes.items()}
        self._statuses |= new
        self._run(new.values())

    async def _fetch_release(self) -> None:
        """Read the newest release once; it never changes."""
        record = self._environments.records.get(self._etcd.keys.environment(self._ref))
        number = record.message.latest_release if record is not None and record.message is not None else 0
        if not number or number in self._releases:
            return
        key = self._etcd.keys.release(self._ref, number)
        with contextlib.suppress(StoreError):
            try:
                found = await self._etcd.get(key)
                if found is not None:
                    self._releases[number] = decode(Release, key, found.value)
            except MalformedRecord as error:
                self._releases[number] = Problem(key, f"not a readable {error.kind}: {error.reason}")


def _message(record: Record[M] | None, problems: list[Problem]) -> M | None:
    if record is not None and record.error is not None:
        problems.append(Problem(record.key, f"not a readable {record.error.kind}: {record.error.reason}"))
    return record.message if record is not None else None


def _by_name(names: list[str], records: Mapping[str, Record[Any] | None], problems: list[Problem]) -> dict[str, Any]:
    found = {name: _message(records[name], problems) for name in names}
    return {name: message for name, message in found.items() if message is not None}
