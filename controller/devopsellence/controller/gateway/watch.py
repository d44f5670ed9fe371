"""The Watch service: watches of callers, served by the hub, or by etcd directly where the hub lacks the history."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Final

import grpc
import grpc.aio

from devopsellence.controller.gateway.admission import Admission, AdmittedCall, status_text
from devopsellence.controller.gateway.rules import policy
from devopsellence.controller.gateway.rules.filters import readable_events
from devopsellence.controller.gateway.rules.grants import Grants, KeyRange
from devopsellence.controller.gateway.rules.policy import ReadMode
from devopsellence.controller.gateway.rules.refusal import Refused, invalid, unsupported
from devopsellence.controller.gateway.upstream import Upstream, failure_of
from devopsellence.controller.gateway.watch_buffer import WatcherQueue
from devopsellence.controller.gateway.watch_hub import HubWatch, WatchHub
from devopsellence.etcd.v3 import etcd_pb2 as rpc
from devopsellence.store.errors import StoreError, WatchLost

_Context = grpc.aio.ServicerContext[Any, Any]
#: Seconds that a caller may take to read one answer.
_SLOW_SECONDS: Final = 30.0
#: Id of a watch that was not created, as in etcd.
_NO_WATCH: Final = -1


class WatchService:
    """The Watch service of etcd's API, without progress on request.

    Not derived from the generated class, which expects a generator: writing waits for the caller to read.
    """

    def __init__(self, admission: Admission, upstream: Upstream, hub: WatchHub) -> None:
        self._admission = admission
        self._upstream = upstream
        self._hub = hub
        self._sessions: set[WatchSession] = set()

    async def Watch(  # noqa: N802
        self, request_iterator: AsyncIterator[rpc.WatchRequest], context: _Context
    ) -> None:
        async with self._admission.admitted(context, "Watch", stream=True) as call:
            session = WatchSession(call, self._admission, self._upstream, self._hub, context)
            self._sessions.add(session)
            try:
                await session.run(request_iterator)
            finally:
                self._sessions.discard(session)

    def access_changed(self) -> None:
        """End the watches of callers that have other rights now; they come back if they still have some."""
        for session in list(self._sessions):
            session.check_access()


class WatchSession:
    """Stream with any number of watches of one caller."""

    def __init__(
        self, call: AdmittedCall, admission: Admission, upstream: Upstream, hub: WatchHub, context: _Context
    ) -> None:
        self._call = call
        self._admission = admission
        self._upstream = upstream
        self._hub = hub
        self._context = context
        self._writing = asyncio.Lock()
        self._watches: dict[int, asyncio.Task[None]] = {}
        self._last_id = 0
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self, requests: AsyncIterator[rpc.WatchRequest]) -> None:
        """Serve the stream until the caller ends it, which cancels this task.

        Raises:
            UpstreamFailed, Refused: a watch broke, or the caller lost its access.
        """
        reader = asyncio.ensure_future(self._read(requests))
        try:
            await asyncio.wait({reader, self._ended}, return_when=asyncio.FIRST_COMPLETED)
            if not self._ended.done():
                reader.result()
            # As in etcd, watches go on after the last request.
            await self._ended
        finally:
            tasks = [reader, *self._watches.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            # Read, so that no error counts as lost.
            if self._ended.done() and not self._ended.cancelled():
                self._ended.exception()

    def check_access(self) -> None:
        """End the stream if the caller's rights have changed since it was opened."""
        try:
            if self._admission.identities.caller([self._call.caller.identity], self._call.serial) == self._call.caller:
                return
            error: Exception = WatchLost("the caller's access has changed")
        except Refused as refused:
            error = refused
        self._end(error)

    def _end(self, error: Exception) -> None:
        if not self._ended.done():
            self._ended.set_exception(failure_of(error) if isinstance(error, StoreError) else error)

    async def _read(self, requests: AsyncIterator[rpc.WatchRequest]) -> None:
        async for request in requests:
            policy.check_understood(request)
            match request.WhichOneof("request_union"):
                case "create_request":
                    await self._create(request.create_request)
                case "cancel_request":
                    await self._cancel(request.cancel_request.watch_id)
                case _:
                    raise unsupported("progress on request, and requests that the gateway does not know")

    async def _create(self, create: rpc.WatchCreateRequest) -> None:
        try:
            if create.watch_id < 0 or create.watch_id in self._watches:
                raise invalid("a watch of this id exists, or the id is negative")
            mode = policy.check_watch(self._call.caller, create)
            self._call.limits.watch_opened()
        except Refused as refused:
            now = asyncio.get_running_loop().time()
            self._admission.audit.refused(self._call.source, "Watch", refused, now, create)
            # As etcd does: only this watch ends, not the stream.
            answer = rpc.WatchResponse(
                header=self._hub.header(),
                watch_id=create.watch_id or _NO_WATCH,
                created=True,
                canceled=True,
                cancel_reason=status_text(refused),
            )
            await self._write(answer)
            return
        self._admission.note_read(self._call, [KeyRange(create.key, create.range_end)])
        watch_id = create.watch_id or self._free_id()
        grants = self._call.caller.grants if mode is ReadMode.FILTERED else None
        self._start(watch_id, self._serve(watch_id, create, grants))

    def _free_id(self) -> int:
        """Return an id for a watch whose caller has chosen none."""
        self._last_id += 1
        while self._last_id in self._watches:
            self._last_id += 1
        return self._last_id

    def _start(self, watch_id: int, serving: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(serving)
        self._watches[watch_id] = task
        task.add_done_callback(lambda done: self._served(watch_id, done))

    def _served(self, watch_id: int, task: asyncio.Task[None]) -> None:
        self._watches.pop(watch_id, None)
        self._call.limits.watch_closed()
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self._end(error)

    async def _cancel(self, watch_id: int) -> None:
        task = self._watches.get(watch_id)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self._write(rpc.WatchResponse(header=self._hub.header(), watch_id=watch_id, canceled=True))

    async def _serve(self, watch_id: int, create: rpc.WatchCreateRequest, grants: Grants | None) -> None:
        keys = KeyRange(create.key, create.range_end)
        queue = WatcherQueue(keys, create.start_revision, create.progress_notify)
        hub_has_all = not (create.prev_kv or create.filters)
        watch = self._hub.watch(queue) if hub_has_all else None
        if watch is None:
            await self._serve_directly(watch_id, create, grants)
            return
        try:
            await self._serve_from_hub(watch_id, watch, create.start_revision, grants)
        finally:
            self._hub.remove(queue)

    async def _serve_from_hub(self, watch_id: int, watch: HubWatch, start: int, grants: Grants | None) -> None:
        header = self._hub.header()
        if self._hub.is_ahead(start):
            # Revisions of keys elsewhere, or another history: only a linearizable read shows the difference.
            prefix = self._call.caller.grants.prefix
            header = (await self._upstream.range(rpc.RangeRequest(key=prefix, count_only=True))).header
        await self._write(rpc.WatchResponse(header=header, watch_id=watch_id, created=True))
        while True:
            change = await watch.next()
            events = list(change.events) if grants is None else readable_events(list(change.events), grants)
            # Without events an answer says that nothing is missing up to its revision.
            if events or not change.events:
                header = self._hub.header(change.revision)
                await self._write(rpc.WatchResponse(header=header, watch_id=watch_id, events=events))

    async def _serve_directly(self, watch_id: int, create: rpc.WatchCreateRequest, grants: Grants | None) -> None:
        """Serve a watch by a stream of its own to etcd."""
        upstream_create = rpc.WatchCreateRequest()
        upstream_create.CopyFrom(create)
        upstream_create.ClearField("watch_id")
        clipped = KeyRange(create.key, create.range_end).clipped(self._call.caller.grants.prefix)
        if clipped is not None:
            upstream_create.key, upstream_create.range_end = clipped.first, clipped.end
        stream = await self._upstream.watch()
        try:
            answer = await stream.exchange(rpc.WatchRequest(create_request=upstream_create))
            # Fragments of the present answer that had events for the caller.
            has_part = False
            while True:
                is_control = answer.created or answer.canceled or not (answer.events or answer.fragment or has_part)
                events = list(answer.events) if grants is None else readable_events(list(answer.events), grants)
                if is_control or events or (has_part and not answer.fragment):
                    answer.watch_id = watch_id
                    del answer.events[:]
                    answer.events.extend(events)
                    await self._write(answer)
                has_part = answer.fragment and (has_part or bool(events))
                if answer.canceled:
                    return
                answer = await stream.receive()
        finally:
            stream.close()

    async def _write(self, answer: rpc.WatchResponse) -> None:
        """Send an answer.

        Raises:
            WatchLost: the caller does not read.
        """
        try:
            async with asyncio.timeout(_SLOW_SECONDS), self._writing:
                await self._context.write(answer)
        except TimeoutError as error:
            raise WatchLost("the watcher is too slow") from error
