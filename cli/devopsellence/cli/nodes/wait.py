"""Waiting for a change of a node's workload, with informers on the keys of the node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from google.protobuf.message import Message

from devopsellence.api.v1.stored_pb2 import Assignment, AssignmentStatus, Candidate, Heartbeat, Node
from devopsellence.cli.nodes.workload import NodeWorkload, by_environment
from devopsellence.cli.store.snapshot import UnreadableKey
from devopsellence.store.errors import Unavailable
from devopsellence.store.etcd import Etcd
from devopsellence.store.informer import Informer
from devopsellence.store.record import Record

M = TypeVar("M", bound=Message)
#: Time limit of the first read, in seconds.
_FIRST: Final = 10.0


class WaitTimeout(Exception):
    """Time limit reached; ``workload`` is the current workload of the node."""

    def __init__(self, workload: NodeWorkload) -> None:
        super().__init__()
        self.workload = workload


async def wait_until(
    etcd: Etcd, name: str, done: Callable[[NodeWorkload], bool], tell: Callable[[NodeWorkload], None], seconds: float
) -> NodeWorkload:
    """Call ``tell`` with the workload of node ``name`` after every change, until ``done`` returns True.

    Raises:
        WaitTimeout: not done after ``seconds``.
        Unavailable: etcd did not answer at the beginning; later losses of the connection are waited out.
        Exception: any error raised by ``done`` or ``tell``.
    """
    watch = _Watch(etcd, name)
    try:
        await watch.begin()
        try:
            async with asyncio.timeout(seconds):
                while True:
                    workload = watch.workload()
                    tell(workload)
                    if done(workload):
                        return workload
                    await watch.changed()
        except TimeoutError:
            raise WaitTimeout(watch.workload()) from None
    finally:
        await watch.end()


class _Watch:
    def __init__(self, etcd: Etcd, name: str) -> None:
        keys = etcd.keys
        self._etcd = etcd
        self._name = name
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[Any]] = []
        self._nodes = self._informer(keys.node(name), Node)
        self._heartbeats = self._informer(keys.heartbeat(name), Heartbeat)
        self._assignments = self._informer(keys.assignments_prefix(name), Assignment)
        self._statuses = self._informer(keys.statuses_prefix(name), AssignmentStatus)
        self._candidates = self._informer(keys.election_prefix, Candidate)

    async def begin(self) -> None:
        informers = (self._nodes, self._heartbeats, self._assignments, self._statuses, self._candidates)
        self._tasks = [asyncio.create_task(informer.run()) for informer in informers]
        try:
            async with asyncio.timeout(_FIRST):
                for informer in informers:
                    await informer.synced()
        except TimeoutError as error:
            problem = next(
                (informer.problem for informer in informers if informer.problem), "not everything could be read in time"
            )
            raise Unavailable(problem) from error

    async def changed(self) -> None:
        waiting = asyncio.ensure_future(self._changed.wait())
        try:
            # An informer ends only because of a bug, which must not look like a node without changes.
            done, _ = await asyncio.wait({waiting, *self._tasks}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        for task in done - {waiting}:
            task.result()
        self._changed.clear()

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def workload(self) -> NodeWorkload:
        keys, problems = self._etcd.keys, list[UnreadableKey]()
        nodes = _readable(self._nodes.records, problems)
        heartbeats = _readable(self._heartbeats.records, problems)
        return NodeWorkload(
            name=self._name,
            node=nodes.get(keys.node(self._name)),
            heartbeat=heartbeats.get(keys.heartbeat(self._name)),
            assignments=by_environment(keys, _readable(self._assignments.records, problems)),
            statuses=by_environment(keys, _readable(self._statuses.records, problems)),
            controllers=len(self._candidates.records),
            problems=tuple(problems),
        )

    def _informer(self, prefix: str, kind: type[M]) -> Informer[M]:
        return Informer(self._etcd, prefix, kind, lambda _key: self._changed.set())


def _readable(records: Mapping[str, Record[M]], problems: list[UnreadableKey]) -> dict[str, M]:
    problems += [
        UnreadableKey(key, f"not a readable {record.error.kind}: {record.error.reason}")
        for key, record in records.items()
        if record.error is not None
    ]
    return {key: record.message for key, record in records.items() if record.message is not None}
