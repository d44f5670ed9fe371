"""Operators of a schedule: each change is written until etcd has the change, and only once."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import TypeVar

from devopsellence.api.v1 import stored_pb2 as pb
from devopsellence.store.codec import decode, encode
from devopsellence.store.errors import StoreError
from devopsellence.store.etcd import Compare, Delete, Etcd, Put
from devopsellence.store.keys import PEERS
from tests.integration.controller.audit import by_hand_key
from tests.schedules.releases import REF, missing_image, named, release
from tests.schedules.schedule import OwnKey, ReleaseQuality, ReleaseShape, Schedule

T = TypeVar("T")


class Operator:
    """Writes the changes of operators; records the shape of each release."""

    def __init__(self, etcd: Etcd, on_missing: Callable[[str], None]) -> None:
        """``on_missing`` gets each missing image before a release needs the image."""
        self.shapes: dict[int, ReleaseShape] = {}
        self._etcd = etcd
        self._on_missing = on_missing

    async def begin(self, schedule: Schedule) -> None:
        await _insist(lambda: self._begin(schedule))

    async def _begin(self, schedule: Schedule) -> bool:
        keys = self._etcd.keys
        for number, (name, labels) in enumerate(schedule.labels.items(), 1):
            node = pb.Node(name=name, uid=f"uid-{name}", labels=labels, address=f"10.0.0.{number}")
            await self._etcd.put(keys.node(name), encode(node))
        environment = pb.Environment(**named(), nodes=schedule.attached)
        await self._etcd.put(keys.environment(REF), encode(environment))
        return True

    async def deploy(self, shape: ReleaseShape) -> None:
        """Write a release as the command line does: with the next number, in one transaction."""
        by = uuid.uuid4().hex
        await _insist(lambda: self._deploy(shape, by))

    async def _deploy(self, shape: ReleaseShape, by: str) -> bool:
        keys = self._etcd.keys
        environment, revision = await self._environment()
        latest = environment.latest_release
        for number in range(1, latest + 1):
            # The answer to an earlier attempt may have been lost.
            stored = await self._etcd.get(keys.release(REF, number))
            assert stored is not None, f"release {number} of {latest} is missing"
            if decode(pb.Release, stored.key, stored.value).created_by == by:
                self.shapes[number] = shape
                return True
        made = release(latest + 1, shape, by)
        if shape.quality is ReleaseQuality.STUCK:
            self._on_missing(missing_image(made.number))
        environment.latest_release = made.number
        where, key = keys.environment(REF), keys.release(REF, made.number)
        result = await self._etcd.txn(
            [Compare.absent(key), Compare.unmodified(where, revision)],
            [Put(key, encode(made)), Put(where, encode(environment))],
        )
        if result.succeeded:
            self.shapes[made.number] = shape
        return result.succeeded

    async def attach(self, node: str, *, attached: bool) -> None:
        await _insist(lambda: self._attach(node, attached=attached))

    async def _attach(self, node: str, *, attached: bool) -> bool:
        environment, revision = await self._environment()
        nodes = {*environment.nodes, node} if attached else {*environment.nodes} - {node}
        environment.nodes[:] = sorted(nodes)
        where = self._etcd.keys.environment(REF)
        return (
            await self._etcd.txn([Compare.unmodified(where, revision)], [Put(where, encode(environment))])
        ).succeeded

    async def change_node(self, node: str, change: Callable[[pb.Node], None]) -> None:
        """Read, change and write a Node."""
        await _insist(lambda: self._change_node(node, change))

    async def _change_node(self, node: str, change: Callable[[pb.Node], None]) -> bool:
        key = self._etcd.keys.node(node)
        record = await self._etcd.get(key)
        assert record is not None
        changed = decode(pb.Node, key, record.value)
        change(changed)
        return (
            await self._etcd.txn([Compare.unmodified(key, record.mod_revision)], [Put(key, encode(changed))])
        ).succeeded

    async def expire_heartbeat(self, node: str) -> None:
        """Expire the heartbeat as if the agent had been silent for the time of the lease."""
        await _insist(lambda: self._expire_heartbeat(node))

    async def _expire_heartbeat(self, node: str) -> bool:
        record = await self._etcd.get(self._etcd.keys.heartbeat(node))
        if record is not None and record.lease:
            await self._etcd.revoke_lease(record.lease)
        return True

    async def delete(self, which: OwnKey, target: str) -> None:
        """Delete a key of a program by hand; ``target`` is a node, or a controller."""
        await _insist(lambda: self._delete(which, target))

    async def _delete(self, which: OwnKey, target: str) -> bool:
        key = await self._own_key(which, target)
        record = await self._etcd.get(key) if key else None
        if record is None:
            return True
        return (
            await self._etcd.txn(
                [Compare.unmodified(key, record.mod_revision)], [Delete(key), Put(by_hand_key(self._etcd.keys), b"")]
            )
        ).succeeded

    async def _own_key(self, which: OwnKey, target: str) -> str:
        """Return a key; empty if there is none such."""
        keys = self._etcd.keys
        match which:
            case OwnKey.HEARTBEAT:
                return keys.heartbeat(target)
            case OwnKey.STATUS:
                return keys.status(target, REF)
            case OwnKey.ASSIGNMENT:
                return keys.assignment(target, REF)
            case OwnKey.PEERS:
                return keys.ingress(target, REF, PEERS)
            case OwnKey.ROLLOUT:
                return keys.rollout(REF)
            case OwnKey.CANDIDATE:
                candidates = (await self._etcd.list(keys.election_prefix)).items
                return min(candidates, key=lambda one: one.create_revision).key if candidates else ""

    async def _environment(self) -> tuple[pb.Environment, int]:
        key = self._etcd.keys.environment(REF)
        record = await self._etcd.get(key)
        assert record is not None
        return decode(pb.Environment, key, record.value), record.mod_revision


async def answered(question: Callable[[], Awaitable[T]]) -> T:
    """Return the answer of etcd to a question, asked until there is one; etcd may be away, or busy, for a while."""
    while True:
        try:
            return await question()
        except StoreError:
            await asyncio.sleep(0.05)


async def _insist(attempt: Callable[[], Awaitable[bool]]) -> None:
    """Repeat an attempt until success."""
    while not await answered(attempt):
        pass
