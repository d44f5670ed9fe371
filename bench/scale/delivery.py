"""Delivery of a release as assignments to a thousand nodes with a watch each, against plain writes of as many bytes.

No agents: measures only the controller and etcd, not a thousand agents on one machine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import aclosing, contextmanager

from bench.hollow.fleet import uid_of
from bench.report import Figure
from bench.scale.setting import Setting, publish, put_all, release, setting
from devopsellence.api.v1 import stored_pb2
from devopsellence.store.codec import encode
from devopsellence.store.etcd import Etcd, Put

NODES = 1000
_PATIENCE_SECONDS = 60.0


class Watchers:
    """Passive watches, one per node."""

    def __init__(self, etcd: Etcd, prefixes: list[str]) -> None:
        self._etcd = etcd
        self._prefixes = prefixes
        self._waiting: set[str] = set()
        self._all = asyncio.Event()

    @contextmanager
    def following(self) -> Iterator[None]:
        """Watch within the block, entered once all watches are established."""
        self.expect()
        tasks = [asyncio.create_task(self._follow(prefix)) for prefix in self._prefixes]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()

    def expect(self) -> None:
        """Start to wait for an event on every watch."""
        self._waiting = set(self._prefixes)
        self._all.clear()

    async def all_heard(self) -> None:
        """Return once every watch has received an event."""
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await self._all.wait()

    async def _follow(self, prefix: str) -> None:
        async with aclosing(self._etcd.watch(prefix, start_revision=0)) as batches:
            async for _ in batches:
                self._waiting.discard(prefix)
                if not self._waiting:
                    self._all.set()


async def _floor(where: Setting, watchers: Watchers, prefixes: list[str]) -> float:
    """Return the seconds for plain writes of as many bytes to as many watchers, 100 per transaction."""
    listing = await where.etcd.list(where.etcd.keys.all_assignments_prefix)
    value = listing.items[0].value
    watchers.expect()
    started = time.monotonic()
    await put_all(where.etcd, [Put(f"{prefix}it", value) for prefix in prefixes])
    await watchers.all_heard()
    return time.monotonic() - started


async def _deliver(where: Setting, watchers: Watchers, number: int) -> float:
    """Return the seconds from the release to the last watcher."""
    watchers.expect()
    started = time.monotonic()
    await publish(where, release(number, services=1))
    await watchers.all_heard()
    return time.monotonic() - started


async def figures(runs: int, *, nodes: int = NODES) -> list[Figure]:
    async with setting(nodes) as where:
        keys = where.etcd.keys
        beats = [stored_pb2.Heartbeat(node=name, uid=uid_of(name)) for name in where.nodes]
        await put_all(where.etcd, [Put(keys.heartbeat(beat.node), encode(beat)) for beat in beats])
        bare = [f"/floor/{name}/" for name in where.nodes]
        theirs = Watchers(where.etcd, bare)
        ours = Watchers(where.etcd, [keys.assignments_prefix(name) for name in where.nodes])
        took, floors = [], []
        with ours.following(), theirs.following():
            await ours.all_heard()
            await theirs.all_heard()
            await _deliver(where, ours, 1)
            for turn in range(runs):
                floors.append(await _floor(where, theirs, bare))
                took.append(await _deliver(where, ours, 2 + turn))
    what = f"{nodes} nodes: release written to the last node's watch"
    return [
        Figure(what, "s", took, limit=1.0),
        Figure(f"{what}, as a ratio", "s", took, "as many bytes put to as many watchers", floors),
    ]
