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

    def __init__(self, what: str, create: rpc.WatchCreateRequest, stream: _SharedStream) -> None:
        self.request = create
        #: Id that the server gave; None until it has.
        self.id: int | None = None
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
    """Stream that is open while it has watches. Watches are created one after the other, as by etcd's own client:
    answers do not say which request they are for."""

    def __init__(self, stream: _Stream, channel: object, timeout: float) -> None:
        self.channel = channel
        self._timeout = timeout
        self.ended = False
        self._stream = stream
        self._open: set[Watch] = set()
        self._by_id: dict[int, Watch] = {}
        # Watches to create or, if closed meanwhile, to cancel.
        self._requests: asyncio.Queue[Watch] = asyncio.Queue()
        self._creating: Watch | None = None
        self._created = asyncio.Event()
        self._task = asyncio.create_task(self._serve(), name="watches")

    def add(self, what: str, create: rpc.WatchCreateRequest) -> Watch:
        watch = Watch(what, create, self)
        self._open.add(watch)
        self._requests.put_nowait(watch)
        return watch

    def remove(self, watch: Watch) -> None:
        """Cancel a watch, and end the stream with the last one. Idempotent."""
        if watch not in self._open:
            return
        self._open.discard(watch)
        if not self._open:
            self.end(WatchLost("closed"))
        elif watch.id is not None and self._by_id.pop(watch.id, None) is not None:
            self._requests.put_nowait(watch)

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
                await self._receive()
        except* StoreError as group:
            error = first_error(group)
        finally:
            self.end(error)

    async def _send(self) -> None:
        while True:
            watch = await self._requests.get()
            if watch.id is not None:
                cancel = rpc.WatchCancelRequest(watch_id=watch.id)
                await self._stream.send(rpc.WatchRequest(cancel_request=cancel))
            elif watch in self._open:
                self._creating = watch
                self._created.clear()
                await self._stream.send(rpc.WatchRequest(create_request=watch.request))
                try:
                    async with asyncio.timeout(self._timeout):
                        await self._created.wait()
                except TimeoutError as error:
                    watch.end(Unavailable("no answer in time"))
                    # Whatever is behind on the stream would wait as well.
                    raise WatchLost("etcd does not answer") from error

    async def _receive(self) -> None:
        while True:
            answer = await self._stream.receive()
            if answer.created:
                self._confirm(answer)
            elif (watch := self._by_id.get(answer.watch_id)) is not None:
                if answer.canceled:
                    del self._by_id[answer.watch_id]
                watch.put(answer)

    def _confirm(self, answer: rpc.WatchResponse) -> None:
        watch, self._creating = self._creating, None
        self._created.set()
        if watch is None:
            return
        watch.put(answer)
        if answer.canceled:
            return
        watch.id = answer.watch_id
        if watch in self._open:
            self._by_id[watch.id] = watch
        else:
            self._requests.put_nowait(watch)
