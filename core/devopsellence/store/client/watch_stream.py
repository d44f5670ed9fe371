"""All watches of a connection on one stream: each stream of its own would take memory here and at the server.

Decision record: docs/decisions/0039-one-watch-stream.md.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from devopsellence.etcd.v3 import etcd_pb2 as rpc
from devopsellence.store.client.connection import EtcdConnection
from devopsellence.store.client.stream import EtcdStream
from devopsellence.store.errors import StoreError, Unavailable, WatchLost, first_error

#: Bytes of answers that may wait for the reader of one watch. A slower one loses its watch: the stream brings the
#: answers of all watches, so nobody may hold it up.
WAITING_BYTES: Final = 64 << 20

_Stream = EtcdStream[rpc.WatchRequest, rpc.WatchResponse]


class Watch:
    """Watch of a range of keys, whose answers wait here. Close by :meth:`close`."""

    def __init__(self, what: str, watch_id: int, stream: _SharedStream) -> None:
        #: Id on the stream, which answers name.
        self.id = watch_id
        self._what = what
        self._stream = stream
        self._waiting: deque[rpc.WatchResponse] = deque()
        self._size = 0
        self._wake = asyncio.Event()
        self._error: StoreError | None = None

    async def next(self) -> rpc.WatchResponse:
        """Return the next answer; the first one confirms the watch.

        Raises:
            WatchLost and further errors of the store: the stream has ended.
        """
        while not self._waiting:
            if self._error is not None:
                raise type(self._error)(f"{self._what}: {self._error}") from self._error
            self._wake.clear()
            await self._wake.wait()
        answer = self._waiting.popleft()
        self._size -= answer.ByteSize()
        return answer

    def refused(self, reason: str) -> StoreError:
        """Return the error for a watch that etcd ended with ``reason``."""
        return self._stream.refused(reason)

    def put(self, answer: rpc.WatchResponse) -> None:
        """Add an answer, or end the watch if too much waits for its reader."""
        if self._error is not None:
            return
        self._waiting.append(answer)
        self._size += answer.ByteSize()
        if self._size > WAITING_BYTES:
            self._waiting.clear()
            self.end(WatchLost("answers were not read in time"))
        self._wake.set()

    def end(self, error: StoreError) -> None:
        """End the watch with ``error``, which the reader gets after the answers that wait."""
        self._error = self._error or error
        self._wake.set()

    def close(self) -> None:
        self._stream.remove(self)


class WatchStreams:
    """Watches of one connection: on one stream, as long as the connection's channel stays the same."""

    def __init__(self, connection: EtcdConnection) -> None:
        self._connection = connection
        self._shared: _SharedStream | None = None

    async def open(self, what: str, create: rpc.WatchCreateRequest) -> tuple[Watch, rpc.WatchResponse]:
        """Create a watch and return it with the first answer.

        Raises:
            Unavailable: no answer within the connection's timeout, counted from the answer to the watch before.
        """
        stream = await self._stream(what)
        watch = stream.add(what, create)
        try:
            return watch, await watch.next()
        except BaseException:
            watch.close()
            raise

    async def _stream(self, what: str) -> _SharedStream:
        """Return the shared stream, or a new one once there is a connection."""
        channel = await self._connection.channel(what)
        if (shared := self._usable(channel)) is not None:
            return shared
        opened = await self._connection.stream("watch", lambda stubs: stubs.watch.Watch, lost=WatchLost)
        if (shared := self._usable(channel)) is not None:
            # Opened for another watch meanwhile.
            opened.close()
            return shared
        shared = _SharedStream(opened, channel, self._connection.timeout)
        # A token expires, and etcd judges a new watch by that of the stream.
        self._shared = None if self._connection.uses_tokens else shared
        return shared

    def _usable(self, channel: object) -> _SharedStream | None:
        shared = self._shared
        return shared if shared is not None and not shared.ended and shared.channel is channel else None


class _SharedStream:
    """Stream that is open while it has watches.

    Their ids are chosen here (etcd 3.4 and later: ``WatchCreateRequest.watch_id``), so answers to several creations at
    once are told apart. ``timeout``: seconds without an answer to any of them.
    """

    def __init__(self, stream: _Stream, channel: object, timeout: float) -> None:
        self.channel = channel
        self._timeout = timeout
        self.ended = False
        self._stream = stream
        self._last_id = 0
        self._open: set[Watch] = set()
        # Those that the server has not ended.
        self._by_id: dict[int, Watch] = {}
        # Those that wait for their first answer.
        self._new: set[Watch] = set()
        # Ids without a first answer in the order of their requests, also of watches that were given up.
        self._asked: dict[int, None] = {}
        self._requests: asyncio.Queue[rpc.WatchRequest] = asyncio.Queue()
        self._created = asyncio.Event()
        self._waiting = asyncio.Event()
        self._task = asyncio.create_task(self._serve(), name="watches")

    def add(self, what: str, create: rpc.WatchCreateRequest) -> Watch:
        self._last_id += 1
        watch = Watch(what, self._last_id, self)
        self._open.add(watch)
        self._new.add(watch)
        self._by_id[watch.id] = watch
        self._asked[watch.id] = None
        create.watch_id = watch.id
        self._requests.put_nowait(rpc.WatchRequest(create_request=create))
        self._waiting.set()
        return watch

    def remove(self, watch: Watch) -> None:
        """Cancel a watch, and end the stream with the last one. Idempotent."""
        if watch not in self._open:
            return
        self._open.discard(watch)
        self._answered(watch)
        if not self._open:
            self.end(WatchLost("closed"))
        elif self._by_id.pop(watch.id, None) is not None:
            cancel = rpc.WatchCancelRequest(watch_id=watch.id)
            self._requests.put_nowait(rpc.WatchRequest(cancel_request=cancel))

    def refused(self, reason: str) -> StoreError:
        return self._stream.refused(reason)

    def end(self, error: StoreError) -> None:
        """End the stream and all its watches. Idempotent."""
        self.ended = True
        self._stream.close()
        self._task.cancel()
        for watch in self._open:
            watch.end(error)

    async def _serve(self) -> None:
        error: StoreError = WatchLost("the stream has ended")
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._send())
                tasks.create_task(self._expect_creations())
                await self._receive()
        except* StoreError as group:
            error = first_error(group)
        finally:
            self.end(error)

    async def _send(self) -> None:
        while True:
            await self._stream.send(await self._requests.get())

    async def _expect_creations(self) -> None:
        """End the stream if no answer to any creation comes in time: whatever is behind would wait as well.

        The time counts from the answer before, so that a busy server is not taken for a silent one.
        """
        while True:
            await self._waiting.wait()
            self._created.clear()
            try:
                async with asyncio.timeout(self._timeout):
                    await self._created.wait()
            except TimeoutError as error:
                for watch in self._new:
                    watch.end(Unavailable("no answer in time"))
                raise WatchLost("etcd does not answer") from error

    async def _receive(self) -> None:
        while True:
            answer = await self._stream.receive()
            watch = self._by_id.get(self._id_of(answer))
            if watch is None:
                # Given up, and cancelled.
                continue
            self._answered(watch)
            if answer.canceled:
                del self._by_id[watch.id]
            watch.put(answer)

    def _id_of(self, answer: rpc.WatchResponse) -> int:
        """Return the id of the watch that an answer is for.

        etcd 3.5 refuses a creation without naming the id, but answers in the order of the requests.
        """
        watch_id = answer.watch_id
        if answer.created and watch_id not in self._asked:
            if not answer.canceled:
                # Its events could not be told from those of others.
                raise WatchLost("the server chooses the ids of watches itself: etcd 3.4 or later is needed")
            watch_id = next(iter(self._asked), 0)
        self._asked.pop(watch_id, None)
        return watch_id

    def _answered(self, watch: Watch) -> None:
        """Note that nobody waits for the first answer any more."""
        if watch in self._new:
            self._new.discard(watch)
            if not self._new:
                self._waiting.clear()
            self._created.set()
