"""The hub: one watch of all keys under the prefix, fanned out to the watchers of all callers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

import structlog

from devopsellence.controller.gateway.rules.grants import end_of
from devopsellence.controller.gateway.upstream import Upstream
from devopsellence.controller.gateway.watch_buffer import Change, WatchBuffer, WatcherQueue
from devopsellence.etcd.v3 import etcd_pb2 as rpc
from devopsellence.store.errors import Compacted, WatchLost
from devopsellence.store.retry import repeat

#: Seconds without a watch of etcd after which watchers are cut off, so that they know.
GRACE_SECONDS: Final = 2.0
OTHER_HISTORY: Final = "etcd has a different history than before (restored or replaced)"
_LONGEST_BACKOFF: Final = 1.0
_log = structlog.get_logger("gateway")


class HubWatch:
    """Watch of one caller at the hub."""

    def __init__(self, queue: WatcherQueue, wake: asyncio.Event) -> None:
        self._queue = queue
        self._wake = wake

    async def next(self) -> Change:
        """Return the next change.

        Raises:
            WatchLost: the watcher was cut off; it may resume after the last change it got.
        """
        while not self._queue.waiting:
            if self._queue.ended:
                raise WatchLost(self._queue.ended)
            self._wake.clear()
            await self._wake.wait()
        return self._queue.take()


class WatchHub:
    """Fan-out of one watch. ``run`` until cancelled; without a watch of etcd, no watcher is added."""

    def __init__(self, upstream: Upstream, prefix: bytes) -> None:
        self._upstream = upstream
        self._prefix = prefix
        self._buffer = WatchBuffer()
        self._wakes: dict[WatcherQueue, asyncio.Event] = {}
        self._header = rpc.ResponseHeader()
        self._connected = asyncio.Event()
        self._ending: asyncio.TimerHandle | None = None

    @property
    def watchers(self) -> int:
        return self._buffer.watchers

    async def connected(self) -> None:
        """Return once the hub watches etcd."""
        await self._connected.wait()

    def header(self, revision: int = 0) -> rpc.ResponseHeader:
        """Return the header of an answer at ``revision``, by default that of the last change."""
        header = rpc.ResponseHeader()
        header.CopyFrom(self._header)
        header.revision = revision or self._buffer.last
        return header

    def watch(self, queue: WatcherQueue) -> HubWatch | None:
        """Add a watcher; None if the hub lacks changes that the watcher needs, which etcd may still have."""
        if not (self._connected.is_set() and self._buffer.holds(queue.start)):
            return None
        self._buffer.add(queue)
        self._wakes[queue] = asyncio.Event()
        return HubWatch(queue, self._wakes[queue])

    def is_ahead(self, start: int) -> bool:
        """Return True if a watcher from ``start`` on has seen more than the hub: the watcher waits."""
        return start > self._buffer.last + 1

    def remove(self, queue: WatcherQueue) -> None:
        """Remove a watcher. Idempotent."""
        self._buffer.remove(queue)
        self._wakes.pop(queue, None)

    async def run(self) -> None:
        """Watch etcd until cancelled."""
        await repeat(self._follow, self._failed, longest=_LONGEST_BACKOFF)

    def _failed(self, error: Exception) -> None:
        self._connected.clear()
        if isinstance(error, Compacted):
            # Changes were missed: watchers list again.
            self._end_watchers(self._buffer.forget("changes were missed"))
        _log.info("watch of the gateway interrupted", reason=str(error))
        if self._ending is None:
            loop = asyncio.get_running_loop()
            self._ending = loop.call_later(GRACE_SECONDS, self._end_all, f"the gateway cannot watch etcd: {error}")

    def _end_all(self, reason: str) -> None:
        self._end_watchers(self._buffer.end_all(reason))

    def _end_watchers(self, ended: Iterable[WatcherQueue]) -> None:
        for queue in ended:
            if (wake := self._wakes.pop(queue, None)) is not None:
                wake.set()

    async def _follow(self) -> None:
        stream = await self._upstream.watch()
        try:
            create = rpc.WatchCreateRequest(
                key=self._prefix,
                range_end=end_of(self._prefix),
                start_revision=self._buffer.last + 1 if self._buffer.last else 0,
                progress_notify=True,
                fragment=True,
            )
            answer = await stream.exchange(rpc.WatchRequest(create_request=create))
            fragments: list[rpc.Event] = []
            while True:
                if answer.canceled:
                    if answer.compact_revision:
                        raise Compacted(answer.compact_revision)
                    raise stream.refused(answer.cancel_reason or "etcd cancelled the watch without a reason")
                if answer.created:
                    await self._check_history(answer.header)
                    self._established(answer.header)
                fragments.extend(answer.events)
                if not answer.fragment:
                    self._received(answer, fragments)
                    fragments = []
                answer = await stream.receive()
        finally:
            stream.close()

    async def _check_history(self, header: rpc.ResponseHeader) -> None:
        """Check that etcd has the history that the buffer has.

        Raises:
            WatchLost: it was restored or replaced, and the buffer begins anew. The present watch is from a revision of
                the former history, so it would miss the changes before that.
        """
        if not self._buffer.last:
            return
        if header.cluster_id == self._header.cluster_id and header.revision >= self._buffer.last:
            return
        # A lagging member looks the same; only a linearizable read shows the difference.
        head = (await self._upstream.range(rpc.RangeRequest(key=self._prefix, count_only=True))).header
        if head.cluster_id != self._header.cluster_id or head.revision < self._buffer.last:
            self._header = head
            self._end_watchers(self._buffer.reset(head.revision, OTHER_HISTORY))
            raise WatchLost(OTHER_HISTORY)

    def _established(self, header: rpc.ResponseHeader) -> None:
        """Go on after the last change, or begin with the present revision."""
        if not self._buffer.last:
            self._end_watchers(self._buffer.reset(header.revision, "changes were missed"))
        self._header = header
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None
        self._connected.set()

    def _received(self, answer: rpc.WatchResponse, events: list[rpc.Event]) -> None:
        if events:
            touched = self._buffer.append(events)
        elif not answer.created:
            touched = self._buffer.progress(answer.header.revision)
        else:
            return
        for queue in touched:
            if (wake := self._wakes.get(queue)) is not None:
                wake.set()
