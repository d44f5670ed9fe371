"""Waiting for a change of a node's workload, with informers on the keys of the node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from google.protobuf.message import Message

from devopsellence.api.v1.stored_pb2 import Assignment, AssignmentStatus, Candidate, Heartbeat, Node
from devopsellence.cli.nodes.workload import NodeWorkload, by_environment
from devopsellence.cli.store.informer_group import InformerGroup
from devopsellence.cli.store.snapshot import UnreadableKey
from devopsellence.store.etcd import Etcd
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
        await watch.informers.synced(_FIRST)
        try:
            async with asyncio.timeout(seconds):
                while True:
                    workload = watch.workload()
                    tell(workload)
                    if done(workload):
                        return workload
                    await watch.informers.changed()
        except TimeoutError:
            raise WaitTimeout(watch.workload()) from None
    finally:
        await watch.informers.end()


class _Watch:
    def __init__(self, etcd: Etcd, name: str) -> None:
        keys = etcd.keys
        self._keys = keys
        self._name = name
        self.informers = InformerGroup(etcd)
        self._nodes = self.informers.add(keys.node(name), Node)
        self._heartbeats = self.informers.add(keys.heartbeat(name), Heartbeat)
        self._assignments = self.informers.add(keys.assignments_prefix(name), Assignment)
        self._statuses = self.informers.add(keys.statuses_prefix(name), AssignmentStatus)
        self._candidates = self.informers.add(keys.election_prefix, Candidate)

    def workload(self) -> NodeWorkload:
        keys, problems = self._keys, list[UnreadableKey]()
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


def _readable(records: Mapping[str, Record[M]], problems: list[UnreadableKey]) -> dict[str, M]:
    problems += [
        UnreadableKey(key, f"not a readable {record.error.kind}: {record.error.reason}")
        for key, record in records.items()
        if record.error is not None
    ]
    return {key: record.message for key, record in records.items() if record.message is not None}
