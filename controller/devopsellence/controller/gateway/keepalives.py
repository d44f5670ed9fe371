"""Keepalives passed on to etcd: those of all callers share a few streams, each renewal is still asked for by its owner.

A stream of its own for each caller would be a second stream for each node, and an answer cost twice as much. Nothing is
kept back or answered from memory: a lease ends its TTL after its owner's last keepalive, however many gateways die.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Final

from devopsellence.controller.gateway.upstream import Upstream
from devopsellence.etcd.v3 import etcd_pb2 as rpc
from devopsellence.store.client.stream import EtcdStream
from devopsellence.store.errors import StoreError, Unavailable, first_error

#: Streams to etcd. A member answers one keepalive of a stream after the other, and asks the leader about each.
STREAMS: Final = 16
#: Seconds for which keepalives are gathered.
GATHER_SECONDS: Final = 0.1
_TIMEOUT: Final = 5.0

_Stream = EtcdStream[rpc.LeaseKeepAliveRequest, rpc.LeaseKeepAliveResponse]


@dataclass(eq=False, slots=True)
class _Renewal:
    """Keepalive that waits for its answer until ``deadline``, on the loop's clock."""

    request: rpc.LeaseKeepAliveRequest
    answer: asyncio.Future[rpc.LeaseKeepAliveResponse]
    deadline: float


class Keepalives:
    """Renewal of the leases of all callers. Close by :meth:`close`."""

    def __init__(self, upstream: Upstream) -> None:
        self._streams = [_SharedStream(upstream) for _ in range(STREAMS)]
        self._gathering: asyncio.TimerHandle | None = None

    def renew(self, request: rpc.LeaseKeepAliveRequest, *, hurry: bool) -> asyncio.Future[rpc.LeaseKeepAliveResponse]:
        """Pass a keepalive on, without ``hurry`` together with others, and return etcd's answer to come.

        The answer raises Unavailable and further errors of the store: etcd did not answer; the keepalive may have been
        received.
        """
        stream = self._streams[request.ID % STREAMS]
        answer = stream.add(request)
        if hurry:
            stream.flush()
        elif self._gathering is None:
            self._gathering = asyncio.get_running_loop().call_later(GATHER_SECONDS, self._flush)
        return answer

    def _flush(self) -> None:
        self._gathering = None
        for stream in self._streams:
            stream.flush()

    def close(self) -> None:
        """End all streams; whoever waits is told."""
        for stream in self._streams:
            stream.close()


class _SharedStream:
    """Stream that is open while keepalives come; each is answered in the order of sending."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._unsent: deque[_Renewal] = deque()
        self._unanswered: deque[_Renewal] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def add(self, request: rpc.LeaseKeepAliveRequest) -> asyncio.Future[rpc.LeaseKeepAliveResponse]:
        """Add a keepalive, to be sent with the next :meth:`flush`; return its answer."""
        loop = asyncio.get_running_loop()
        renewal = _Renewal(request, loop.create_future(), loop.time() + _TIMEOUT)
        self._unsent.append(renewal)
        if self._task is None:
            # A task of its own: a caller that goes away while its keepalive is sent would cancel the stream of all.
            self._task = asyncio.create_task(self._serve(), name="keepalives of the gateway")
        return renewal.answer

    def flush(self) -> None:
        """Send what was added."""
        if self._unsent:
            self._wake.set()

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _serve(self) -> None:
        """Send and receive until the stream breaks; then all that wait fail, and the next keepalive opens another."""
        error: StoreError = Unavailable("keep leases alive: the gateway stops")
        stream: _Stream | None = None
        try:
            stream = await self._upstream.keepalive()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._send(stream))
                tasks.create_task(self._receive(stream))
                tasks.create_task(self._watch_deadlines())
        except* StoreError as group:
            error = first_error(group)
        finally:
            self._task = None
            if stream is not None:
                stream.close()
            self._fail(error)

    async def _send(self, stream: _Stream) -> None:
        while True:
            while self._unsent:
                renewal = self._unsent.popleft()
                self._unanswered.append(renewal)
                await stream.send(renewal.request)
            self._wake.clear()
            await self._wake.wait()

    async def _receive(self, stream: _Stream) -> None:
        while True:
            answer = await stream.receive()
            if not self._unanswered:
                raise Unavailable("keep leases alive: etcd answered a keepalive that was not sent")
            renewal = self._unanswered.popleft()
            if answer.ID != renewal.request.ID:
                self._unanswered.appendleft(renewal)
                raise Unavailable("keep leases alive: etcd answered another keepalive than the oldest")
            if not renewal.answer.done():
                renewal.answer.set_result(answer)

    async def _watch_deadlines(self) -> None:
        """Give the stream up when a keepalive is not answered.

        Raises:
            Unavailable: the deadline has passed.
        """
        loop = asyncio.get_running_loop()
        while True:
            waiting = self._unanswered or self._unsent
            # A keepalive that comes during the sleep has a later deadline.
            left = waiting[0].deadline - loop.time() if waiting else _TIMEOUT
            if left <= 0:
                raise Unavailable(f"keep leases alive: no answer from etcd for {_TIMEOUT:.0f} s")
            await asyncio.sleep(left)

    def _fail(self, error: StoreError) -> None:
        for renewal in (*self._unanswered, *self._unsent):
            if not renewal.answer.done():
                renewal.answer.set_exception(error)
                # Its caller may be gone: then nobody asks for the error.
                renewal.answer.exception()
        self._unanswered.clear()
        self._unsent.clear()
