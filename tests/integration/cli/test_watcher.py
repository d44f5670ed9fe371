"""Snapshot kept up to date by a watch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from devopsellence.api.v1.stored_pb2 import AssignmentStatus, Environment, Node, Release
from devopsellence.cli.store.snapshot import Snapshot
from devopsellence.cli.store.watcher import EnvironmentWatcher
from devopsellence.store.codec import encode
from devopsellence.store.errors import Unavailable
from devopsellence.store.etcd import Etcd
from devopsellence.store.settings import Settings
from tests.support.cli import REF
from tests.support.ports import free_ports


async def environment(etcd: Etcd, *nodes: str, latest: int = 0) -> None:
    message = Environment(organization=REF.organization, project=REF.project, environment=REF.environment, nodes=nodes)
    message.latest_release = latest
    await etcd.put(etcd.keys.environment(REF), encode(message))


async def status(etcd: Etcd, node: str, generation: int) -> None:
    await etcd.put(etcd.keys.status(node, REF), encode(AssignmentStatus(node=node, generation=generation)))


async def until(watcher: EnvironmentWatcher, holds: Callable[[Snapshot], bool]) -> Snapshot:
    snapshot = watcher.snapshot()
    async with asyncio.timeout(10):
        while not holds(snapshot):
            snapshot = await watcher.next()
    return snapshot


@pytest.mark.parametrize("watches", [16, 1], ids=["a watch a node", "one watch on all"])
async def test_watcher_follows_new_nodes(etcd: Etcd, watches: int) -> None:
    await etcd.put(etcd.keys.node("n1"), encode(Node(name="n1")))
    await environment(etcd, "n1")
    await status(etcd, "n1", 1)
    await status(etcd, "n2", 7)
    async with EnvironmentWatcher(etcd, REF, watches=watches) as watcher:
        first = watcher.snapshot()
        assert {name: each.generation for name, each in first.statuses.items()} == {"n1": 1}
        assert set(first.nodes) == {"n1"}
        await environment(etcd, "n1", "n2")
        await until(watcher, lambda now: {n: s.generation for n, s in now.statuses.items()} == {"n1": 1, "n2": 7})
        await status(etcd, "n2", 8)
        await status(etcd, "n1", 2)
        await until(watcher, lambda now: {n: s.generation for n, s in now.statuses.items()} == {"n1": 2, "n2": 8})


async def test_watcher_reads_new_release(etcd: Etcd) -> None:
    async with EnvironmentWatcher(etcd, REF) as watcher:
        assert watcher.snapshot() == Snapshot(REF, heartbeats={}, controllers=0)
        await etcd.put(etcd.keys.release(REF, 1), encode(Release(number=1, message="one")))
        await environment(etcd, latest=1)
        seen = await until(watcher, lambda now: now.release is not None)
        assert seen.release is not None
        assert seen.release.message == "one"
        await etcd.put(etcd.keys.release(REF, 2), b"garbage")
        await environment(etcd, latest=2)
        seen = await until(watcher, lambda now: bool(now.problems))
        assert seen.release is None
        assert seen.problems[0].key == etcd.keys.release(REF, 2)


async def test_watcher_reports_unreadable_record_and_keeps_the_rest(etcd: Etcd) -> None:
    await environment(etcd, "n1")
    await etcd.put(etcd.keys.node("n1"), b"garbage")
    await etcd.put(etcd.keys.rollout(REF), b"garbage")
    async with EnvironmentWatcher(etcd, REF) as watcher:
        snapshot = watcher.snapshot()
    assert [problem.key for problem in snapshot.problems] == [etcd.keys.node("n1"), etcd.keys.rollout(REF)]
    assert snapshot.environment is not None


async def test_watcher_wakes_with_same_snapshot(etcd: Etcd) -> None:
    async with EnvironmentWatcher(etcd, REF) as watcher:
        watcher.wake()
        async with asyncio.timeout(5):
            assert (await watcher.next()).number == 0


async def test_watcher_fails_at_once_without_etcd() -> None:
    (port,) = free_ports(1)
    async with Etcd(Settings((f"127.0.0.1:{port}",)), timeout=0.3) as etcd:
        watcher = EnvironmentWatcher(etcd, REF, patience=1.0)
        with pytest.raises(Unavailable):
            await watcher.__aenter__()
